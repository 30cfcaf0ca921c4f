"""Running a real graph and counting what its tensors hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeq.calibrate.histogram import Histogram
from edgeq.calibrate.observe import Observer
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
    with pytest.raises(CalibrationError, match=r"tensor doubled is NaN or infinite on image image 6"):
        histograms_of(network, ("doubled",), images, 4)
