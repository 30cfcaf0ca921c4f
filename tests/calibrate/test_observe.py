"""Running a real graph and counting what its tensors hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeq.calibrate.counts import Counts
from edgeq.calibrate.histogram import Histogram
from edgeq.calibrate.observe import Observer, open_observed
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import CalibrationError


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """x [n, 1, 2, 2] -> doubled = 2 x -> y = max(doubled, 0)."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "two"], ["doubled"]), helper.make_node("Relu", ["doubled"], ["y"])],
        "doubling",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1, 2, 2])],
        [numpy_helper.from_array(np.array(2.0, np.float32), "two")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def batches(images: NDArray[np.float32], size: int) -> list[tuple[tuple[str, ...], NDArray[np.float32]]]:
    starts = range(0, len(images), size)
    return [
        (tuple(f"image {i}" for i in range(start, min(start + size, len(images)))), images[start : start + size])
        for start in starts
    ]


IMAGES = np.random.default_rng(0).normal(size=(13, 1, 2, 2)).astype(np.float32)


def histograms_of(
    network: Path, tensors: Sequence[str], images: NDArray[np.float32], size: int
) -> dict[str, Histogram]:
    observer = Observer(network, tensors)
    for names, pixels in batches(images, size):
        observer.add(names, pixels)
    return observer.histograms


def test_counts_the_input_an_inner_tensor_and_the_output(network: Path) -> None:
    histograms = histograms_of(network, ("x", "doubled", "y"), IMAGES, 4)
    for name, values in (("x", IMAGES), ("doubled", 2 * IMAGES), ("y", np.maximum(2 * IMAGES, 0))):
        expected = Histogram()
        expected.add(values)
        assert histograms[name].digest() == expected.digest(), name


@pytest.mark.parametrize("size", [1, 7, 64])
def test_batch_size_and_order_change_nothing(network: Path, size: int) -> None:
    reference = histograms_of(network, ("doubled",), IMAGES, 3)
    again = histograms_of(network, ("doubled",), IMAGES[::-1].copy(), size)
    assert again["doubled"].digest() == reference["doubled"].digest()


def test_counting_goes_on_from_histograms(network: Path) -> None:
    first = histograms_of(network, ("doubled",), IMAGES[:5], 2)
    observer = Observer(network, ("doubled",), histograms=first)
    observer.add([f"image {i}" for i in range(8)], IMAGES[5:])
    whole = histograms_of(network, ("doubled",), IMAGES, 2)
    assert observer.histograms["doubled"].digest() == whole["doubled"].digest()


def test_an_overflow_names_the_tensor_and_the_image(network: Path) -> None:
    images = IMAGES.copy()
    images[6] = 3e38
    with pytest.raises(CalibrationError, match=r"tensor doubled is NaN or infinite on image 6"):
        histograms_of(network, ("doubled",), images, 4)


def arrivals(taken: list[str]) -> Iterator[tuple[str, NDArray[np.float32], bool]]:
    """The images one by one, every fifth apart; notes those that were asked for."""
    for i, image in enumerate(IMAGES):
        taken.append(f"image {i}")
        yield f"image {i}", image[np.newaxis], i % 5 == 0


def test_images_that_come_one_by_one_are_counted_as_in_a_batch(network: Path) -> None:
    observer, taken = Observer(network, ("x", "doubled"), threads=2), list[str]()
    assert list(observer.count(arrivals(taken))) == taken == [f"image {i}" for i in range(13)]
    counts = Counts(*observer.take())
    assert all(not histogram.total for histogram in (*observer.histograms.values(), *observer.late.values()))
    for tensor, factor in (("x", 1), ("doubled", 2)):
        for found, images in ((counts.late, IMAGES[::5]), (counts.merged(), IMAGES)):
            expected = Histogram()
            expected.add(factor * images)
            assert found[tensor].digest() == expected.digest()


def test_no_more_images_are_taken_than_can_be_under_way(network: Path) -> None:
    taken: list[str] = []
    counting = Observer(network, ("x",), threads=2).count(arrivals(taken))
    assert next(counting) == "image 0"
    assert len(taken) <= 4
    del counting


def test_a_graph_opened_with_its_weights_beside_it_answers_as_the_file_does(tmp_path: Path) -> None:
    weight = np.random.default_rng(1).normal(size=(32, 32)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["inner"]), helper.make_node("Relu", ["inner"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 32])],
        [numpy_helper.from_array(weight, "w")],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    image = np.random.default_rng(2).normal(size=(1, 32)).astype(np.float32)
    found = open_observed(path, ("x", "inner"), threads=1).run({"x": image})
    np.testing.assert_array_equal(found["y"], OnnxRuntimeEngine(path, threads=1).run({"x": image})["y"])
    np.testing.assert_allclose(found["inner"], image @ weight, rtol=1e-5, atol=1e-5)
    assert found.keys() == {"y", "inner"}
