"""The first convolution on the image's own eight bits: exact inside, half a step at the padded border."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.model.images.preprocess import Preprocess
from edgeq.quantize.int8.pixels import PixelInput, take_pixels

SIDE = 16
MEANS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "plain": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
INT8 = frozenset({"conv"})


def preprocess(name: str) -> Preprocess:
    mean, std = MEANS[name]
    return Preprocess.from_flags(mean, std, (SIDE, SIDE))


def convolution(
    *, pads: tuple[int, int, int, int] = (0, 0, 0, 0), channels: int = 3, group: int = 1, bias: bool = True
) -> onnx.ModelProto:
    rng = np.random.default_rng(3)
    held = {"w": rng.normal(size=(4, channels // group, 3, 3)).astype(np.float32)}
    if bias:
        held["b"] = rng.normal(size=4).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", *held], ["y"], name="conv", pads=list(pads), group=group)],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", channels, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4, None, None])],
        [numpy_helper.from_array(value, name) for name, value in held.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def every_value(steps: Preprocess) -> NDArray[np.float32]:
    """One image that has each of 0..255 once in every channel, preprocessed."""
    pixels = np.arange(256, dtype=np.uint8).reshape(SIDE, SIDE, 1).repeat(3, axis=2)
    pixels[..., 1], pixels[..., 2] = pixels[::-1, :, 1].copy(), pixels[:, ::-1, 2].copy()
    return steps(Image.fromarray(pixels))[None]


def rewritten(model: onnx.ModelProto, steps: Preprocess) -> onnx.ModelProto:
    graph = gs.import_onnx(model)
    assert take_pixels(graph, PixelInput.of(steps), INT8)
    made: onnx.ModelProto = gs.export_onnx(graph.cleanup().toposort())
    made.ir_version = 10
    onnx.checker.check_model(made, full_check=True)
    return made


def run(model: onnx.ModelProto, x: NDArray[np.float32], *names: str) -> list[NDArray[np.float32]]:
    engine = OnnxRuntimeEngine(model.SerializeToString(), optimize=False)
    values = engine.run({"x": x}, names)
    return [values[name] for name in names]


@pytest.mark.parametrize("name", MEANS)
def test_step_and_offset_are_those_of_the_preprocessing(name: str) -> None:
    mean, std = MEANS[name]
    pixels = PixelInput.of(preprocess(name))
    np.testing.assert_allclose(pixels.step, 1 / 255 / np.array(std), rtol=1e-6)
    np.testing.assert_allclose(pixels.offset, 255 * np.array(mean), atol=1e-4)


@pytest.mark.parametrize("name", MEANS)
def test_every_pixel_value_comes_back_exactly(name: str) -> None:
    steps = preprocess(name)
    made = rewritten(convolution(), steps)
    made.graph.output.append(helper.make_tensor_value_info("x.q", TensorProto.UINT8, None))
    (stored,) = run(made, every_value(steps), "x.q")
    expected = np.arange(256).reshape(SIDE, SIDE)
    assert np.array_equal(stored[0, 0], expected)
    assert np.array_equal(stored[0, 1], expected[::-1])
    assert np.array_equal(stored[0, 2], expected[:, ::-1])


@pytest.mark.parametrize("name", MEANS)
@pytest.mark.parametrize("bias", [True, False])
def test_the_convolution_computes_the_same_without_padding(name: str, bias: bool) -> None:
    steps = preprocess(name)
    model = convolution(bias=bias)
    x = every_value(steps)
    (expected,), (found,) = run(model, x, "y"), run(rewritten(model, steps), x, "y")
    # float32 rounding of sums of 27 products of pixels up to 255 with weights near 0.02.
    np.testing.assert_allclose(found, expected, atol=2e-4)


@pytest.mark.parametrize("name", MEANS)
def test_padding_costs_half_a_step_at_the_border_and_nothing_inside(name: str) -> None:
    steps = preprocess(name)
    model = convolution(pads=(1, 2, 0, 1))
    x = every_value(steps)
    (expected,), (found,) = run(model, x, "y"), run(rewritten(model, steps), x, "y")
    assert found.shape == expected.shape
    error = np.abs(found - expected)
    assert error[:, :, 1:, 2:-1].max() <= 2e-4
    weights = np.abs(numpy_helper.to_array(model.graph.initializer[0])).sum(axis=(1, 2, 3)).max()
    assert error.max() <= 0.5 * float(PixelInput.of(steps).step.max()) * weights + 2e-4


@pytest.mark.parametrize("model", [convolution(channels=4), convolution(channels=4, group=2)])
def test_other_inputs_are_left_alone(model: onnx.ModelProto) -> None:
    graph = gs.import_onnx(model)
    assert not take_pixels(graph, PixelInput.of(preprocess("imagenet")), INT8)
    assert [node.op for node in graph.nodes] == ["Conv"]


def test_a_convolution_planned_fp32_is_left_alone() -> None:
    assert not take_pixels(gs.import_onnx(convolution()), PixelInput.of(preprocess("imagenet")), frozenset())


def test_an_offset_outside_eight_bits_is_left_alone() -> None:
    steps = Preprocess.from_flags((-0.5, 0.5, 0.5), (0.5, 0.5, 0.5), (SIDE, SIDE))
    assert not take_pixels(gs.import_onnx(convolution()), PixelInput.of(steps), INT8)
