"""Inputs of other types: what is fed, what is taken out of the graph, and that it computes what it did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from edges import in_half, rename_input, takes_grey, takes_uint8
from export_graphs import operators
from networks import CLASSES, PREPROCESSOR, SIDE, tiny_network
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from pictures import draw_pictures

from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import ModelError
from edgeq.export.input_adapter import adapt_input, open_image_model
from edgeq.export.parity import BOUND
from edgeq.export.stage import FP32, export_model
from edgeq.model.checkpoint.source import open_model
from edgeq.model.graph.onnx_file import load_onnx
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.preprocess import Preprocess
from edgeq.model.images.preprocess_flags import PreprocessFlags
from edgeq.pipeline.stages import parity_images

MEAN = np.array([0.45, 0.5, 0.55], np.float32)
STD = np.array([0.25, 0.24, 0.26], np.float32)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    place = tmp_path_factory.mktemp("edges") / "pictures"
    draw_pictures(place)
    return ImageSet.open(place).sample(12)


def written(directory: Path, model: onnx.ModelProto, preprocessor: dict[str, Any] | None) -> Path:
    directory.mkdir(exist_ok=True)
    onnx.save(model, directory / "model.onnx")
    (directory / "config.json").write_text(
        json.dumps({"id2label": {str(index): name for index, name in enumerate(CLASSES)}})
    )
    if preprocessor is not None:
        (directory / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return directory


def answers(model: Path | onnx.ModelProto, pixels: NDArray[Any]) -> NDArray[np.float64]:
    engine = OnnxRuntimeEngine(model.SerializeToString() if isinstance(model, onnx.ModelProto) else model)
    return engine.run({engine.inputs[0]: pixels})[engine.outputs[0]].astype(np.float64)


def exported(model: Path, pictures: ImageSet, output: Path, **said: Any) -> tuple[onnx.ModelProto, Preprocess, float]:
    """The graph made, the preprocessing that goes with it, and the error of its proof."""
    source = open_image_model(model, **said)
    output.mkdir()
    report = export_model(source, output, parity_images(pictures, source))
    return load_onnx(output / FP32), open_model(output).preprocess, report.parity.relative


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("file", [False, True])
def test_uint8_with_normalization_inside(last: bool, file: bool, pictures: ImageSet, tmp_path: Path) -> None:
    model = takes_uint8(tiny_network(), scale=1 / 255, mean=MEAN, std=STD, last=last)
    place = written(tmp_path / "model", model, PREPROCESSOR if file else None)
    made, preprocess, error = exported(place, pictures, tmp_path / "made")
    assert error <= BOUND
    assert operators(made)[0] == "Conv"  # normalization is the preprocessing's, and eight bits go into this layer
    assert made.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    # (p / 255 - mean) / std = (p - 255 mean) / (255 std)
    assert (preprocess.scale, preprocess.height, preprocess.width) == (1.0, SIDE, SIDE)
    np.testing.assert_allclose(preprocess.mean, 255 * MEAN.astype(np.float64), rtol=1e-6)
    np.testing.assert_allclose(preprocess.std, 255 * STD.astype(np.float64), rtol=1e-6)
    for item in pictures.items[:3]:
        image = pictures.read(item).resize((SIDE, SIDE), 2)
        bytes_ = np.asarray(image)[np.newaxis]
        theirs = answers(model, bytes_ if last else np.ascontiguousarray(bytes_.transpose(0, 3, 1, 2)))
        ours = answers(made, preprocess(pictures.read(item))[np.newaxis])
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_uint8_with_a_cast_alone_takes_pixels_as_they_are(pictures: ImageSet, tmp_path: Path) -> None:
    place = written(tmp_path / "model", takes_uint8(tiny_network()), PREPROCESSOR)
    source = open_image_model(place)
    assert (source.preprocess.scale, source.preprocess.mean, source.preprocess.resize) == (1.0, (), (SIDE, SIDE))
    assert "uint8" in source.notes[0]
    made, preprocess, error = exported(place, pictures, tmp_path / "made")
    assert preprocess == source.preprocess
    assert error <= BOUND
    assert "Cast" not in operators(made)


def test_normalization_inside_a_float_graph_that_is_fed_pixels(pictures: ImageSet, tmp_path: Path) -> None:
    model = takes_uint8(tiny_network(), scale=1 / 255, mean=MEAN, std=STD, last=True)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    place = written(tmp_path / "model", model, None)
    said = {"preprocess": PreprocessFlags(size=(SIDE, SIDE), rescale_factor=1.0)}
    made, preprocess, error = exported(place, pictures, tmp_path / "made", **said)
    assert error <= BOUND
    assert operators(made)[0] == "Conv"
    np.testing.assert_allclose(preprocess.std, 255 * STD.astype(np.float64), rtol=1e-6)
    # pixels that are normalized outside as well are not pixels as they are: nothing is taken out
    twice = open_image_model(place, preprocess=PreprocessFlags(mean=(1.0,), std=(2.0,), size=(SIDE, SIDE)))
    assert (twice.preprocess.mean, twice.takes_normalization) == ((1.0,) * 3, False)


def test_black_stays_black_where_zeros_fill_up(pictures: ImageSet, tmp_path: Path) -> None:
    yolos = {
        "image_processor_type": "RTDetrImageProcessor",
        "size": {"max_height": SIDE, "max_width": SIDE},
        "do_pad": True,
        "pad_size": SIDE,
    }
    model = takes_uint8(tiny_network(), mean=255 * MEAN, std=255 * STD)
    made, preprocess, _ = exported(written(tmp_path / "model", model, yolos), pictures, tmp_path / "made")
    wide = pictures.read(pictures.items[0]).resize((SIDE, SIDE // 2))
    raw = np.zeros((1, 3, SIDE, SIDE), np.uint8)
    raw[0, :, : SIDE // 2] = np.asarray(wide).transpose(2, 0, 1)
    np.testing.assert_allclose(answers(made, preprocess(wide)[np.newaxis]), answers(model, raw), atol=1e-4)


def test_a_negative_factor_stays_inside(pictures: ImageSet, tmp_path: Path) -> None:
    """255 - p is no mean and deviation: the nodes stay, and the proof holds."""
    model = takes_uint8(tiny_network(), scale=-1 / 255, mean=-np.ones(3, np.float32))
    made, preprocess, error = exported(written(tmp_path / "model", model, None), pictures, tmp_path / "made")
    assert error <= BOUND
    assert preprocess.std == ()
    assert operators(made)[:2] == ["Mul", "Sub"]


def test_normalization_goes_with_channels_that_are_blue_first(pictures: ImageSet, tmp_path: Path) -> None:
    model = takes_uint8(tiny_network(), mean=255 * MEAN, std=255 * STD)
    said = {"preprocess": PreprocessFlags(channel_order="bgr")}
    made, preprocess, error = exported(written(tmp_path / "model", model, None), pictures, tmp_path / "made", **said)
    assert error <= BOUND
    np.testing.assert_allclose(preprocess.mean, 255 * MEAN[::-1].astype(np.float64), rtol=1e-6)
    image = pictures.read(pictures.items[0])
    blue_first = np.asarray(image.resize((SIDE, SIDE), 2))[np.newaxis, :, :, ::-1].transpose(0, 3, 1, 2)
    theirs = answers(model, np.ascontiguousarray(blue_first))
    np.testing.assert_allclose(answers(made, preprocess(image)[np.newaxis]), theirs, atol=1e-4)


@pytest.mark.parametrize("edges", [True, False])
def test_fp16_becomes_fp32_with_the_same_weights(edges: bool, pictures: ImageSet, tmp_path: Path) -> None:
    model = in_half(tiny_network(), edges=edges)
    made, _, error = exported(written(tmp_path / "model", model, PREPROCESSOR), pictures, tmp_path / "made")
    # 13 nodes: 2^-10 * sqrt(13), with the two Casts sqrt(15)
    bound = adapt_input(model)[1].bound
    assert bound == pytest.approx(2**-10 * (13 + 2 * (not edges)) ** 0.5)
    assert BOUND < error <= bound  # rounding to FP16 is seen, and is no more than that
    kinds = {tensor.data_type for tensor in made.graph.initializer}
    assert TensorProto.FLOAT16 not in kinds
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    half = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert np.array_equal(weights["head.weight"], half["head.weight"].astype(np.float32))
    assert made.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT


def test_one_channel_is_grey(pictures: ImageSet, tmp_path: Path) -> None:
    model = takes_grey(tiny_network(), "stem.weight")
    halves = {**PREPROCESSOR, "image_std": [0.25] * 3}
    made, preprocess, error = exported(written(tmp_path / "model", model, halves), pictures, tmp_path / "made")
    assert error <= BOUND
    assert (preprocess.channel_order, preprocess.mean, preprocess.std) == ("grey", (0.5,), (0.25,))
    image = pictures.read(pictures.items[0])
    luma = image.convert("L")
    # three equal channels through the three-channel network are what one channel through the summed weights is
    three = Preprocess.from_flags([0.5] * 3, [0.25] * 3, (SIDE, SIDE))(luma.convert("RGB"))
    np.testing.assert_allclose(
        answers(made, preprocess(image)[np.newaxis]), answers(tiny_network(), three[np.newaxis]), atol=1e-4
    )


def test_what_contradicts_the_input_is_refused_at_once(tmp_path: Path) -> None:
    pixels = written(tmp_path / "pixels", takes_uint8(tiny_network()), None)
    with pytest.raises(ModelError, match="pixels as they are"):
        open_image_model(pixels, preprocess=PreprocessFlags(mean=(0.5,)))
    grey = written(
        tmp_path / "grey", takes_grey(tiny_network(), "stem.weight"), {**PREPROCESSOR, "image_mean": [1, 2, 3]}
    )
    with pytest.raises(ModelError, match=r"image_mean is .*one number"):
        open_image_model(grey)
    source = open_image_model(grey, preprocess=PreprocessFlags(channel_order="rgb"))
    with pytest.raises(ModelError, match="takes images of 1 channel, the preprocessing makes 3"):
        export_model(source, tmp_path, np.zeros((1, 3, SIDE, SIDE), np.float32))


def test_uint8_that_is_computed_with_is_refused_by_the_node(tmp_path: Path) -> None:
    model = takes_uint8(tiny_network())
    source = rename_input(model, "larger")
    model.graph.node.insert(0, helper.make_node("Max", [source, source], ["larger"], name="brightest"))
    with pytest.raises(ModelError, match=r"pixels go as such into Max \(brightest\)"):
        open_image_model(written(tmp_path / "model", model, None))
