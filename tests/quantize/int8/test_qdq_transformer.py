"""Q/DQ in a transformer's block: integer kernels that read what was rounded once and write floating point."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from chains import attention_block, model_of
from lowering import scales
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from PIL import Image

from edgeq.engine.onnxruntime import OnnxRuntimeEngine, executed_operators
from edgeq.model.images.preprocess import Preprocess
from edgeq.plan.precision import Precision, PrecisionPlan, Rule
from edgeq.plan.rules import plan_classifier
from edgeq.quantize.int8.pixels import PixelInput, take_pixels
from edgeq.quantize.int8.qdq import calibrated_tensors, lower, placement_of
from edgeq.quantize.int8.registry import USUAL, lowering_for

RANGES = {"x": (-3.0, 2.5), "middle": (-9.0, 8.0), "bent": (0.0, 40.0)}
Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def block() -> onnx.ModelProto:
    return attention_block()


@pytest.fixture(scope="module")
def plan(block: onnx.ModelProto) -> PrecisionPlan:
    return plan_classifier(block)


@pytest.fixture(scope="module")
def lowered(block: onnx.ModelProto, plan: PrecisionPlan) -> onnx.ModelProto:
    return lower(block, plan, scales(RANGES), USUAL)


def readers(model: onnx.ModelProto, tensor: str) -> set[str]:
    return {node.name for node in model.graph.node if tensor in node.input}


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt"])
def test_pairs_stand_where_int8_layers_read_and_nowhere_else(
    block: onnx.ModelProto, plan: PrecisionPlan, backend: str
) -> None:
    placement = placement_of(block, plan, lowering_for(backend))
    assert placement.tensors == ("x", "middle", "bent")
    assert placement.uses == {"x": {"q", "k", "v"}, "middle": {"up"}, "bent": {"down"}}


def test_query_key_and_value_share_one_rounding_and_the_residual_has_none(lowered: onnx.ModelProto) -> None:
    assert Counter(node.op_type for node in lowered.graph.node)["QuantizeLinear"] == 3
    assert readers(lowered, "x.dq") == {"q", "k", "v"}
    assert readers(lowered, "x") == {"x.QuantizeLinear", "middle"}
    assert readers(lowered, "middle") == {"middle.QuantizeLinear", "end"}


def test_what_an_int8_layer_writes_in_floating_point_has_a_range_all_the_same(
    block: onnx.ModelProto, plan: PrecisionPlan
) -> None:
    """TensorRT's calibration cache wants one."""
    assert calibrated_tensors(block, plan) == ("x", "q", "k", "v", "middle", "bent", "down")


def test_every_linear_layer_is_one_integer_kernel(lowered: onnx.ModelProto, tmp_path: Path) -> None:
    onnx.save(lowered, tmp_path / "lowered.onnx")
    operators = executed_operators(tmp_path / "lowered.onnx")
    # The first feed-forward layer stores integers behind its Relu; the others write floating point.
    assert (operators["MatMulIntegerToFloat"], operators["QLinearMatMul"]) == (4, 1)
    assert operators["QuantizeLinear"] == 2, "the third is the kernel's own"


def test_it_computes_what_the_formulas_say(block: onnx.ModelProto, lowered: onnx.ModelProto) -> None:
    rng = np.random.default_rng(1)
    x = rng.uniform(-3.0, 2.5, (2, 4, 6)).astype(np.float32)
    weights = {tensor.name[0]: _rounded_weight(numpy_helper.to_array(tensor)) for tensor in block.graph.initializer}
    stored = _rounded(x, "x")
    query, key, value = (stored @ weights[name] for name in "qkv")
    scores = np.exp(query @ key.transpose(0, 2, 1))
    middle = x + scores / scores.sum(axis=-1, keepdims=True) @ value
    bent = _rounded(np.maximum(_rounded(middle, "middle") @ weights["u"], 0.0), "bent")
    engine = OnnxRuntimeEngine(lowered.SerializeToString(), threads=1)
    np.testing.assert_allclose(engine.run({"x": x})["y"], middle + bent @ weights["d"], rtol=1e-5, atol=1e-4)


def _rounded(values: Array, tensor: str) -> Array:
    """255 steps over the tensor's range, one of them at zero."""
    low, high = RANGES[tensor]
    step = (high - low) / 255
    zero = round(-low / step)
    integers: Array = (np.clip(np.rint(values / step) + zero, 0, 255) - zero) * step
    return integers.astype(np.float32)


def _rounded_weight(weight: Array) -> Array:
    """127 steps on either side, for each column its own."""
    step = np.abs(weight).max(axis=0) / 127
    rounded: Array = np.rint(weight / step) * step
    return rounded.astype(np.float32)


def test_a_gemm_with_a_bias_writes_floating_point_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    constants = {
        name: rng.standard_normal(shape).astype(np.float32) for name, shape in {"w": (5, 4), "b": (4,)}.items()
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["g"], name="g"),
        helper.make_node("Tanh", ["g"], ["t"], name="t"),
        helper.make_node("Mul", ["t", "t"], ["y"], name="y"),
    ]
    model = model_of(nodes, constants, ["n", 5], ["n", 4])
    rule = Rule(name="int8-head", precision=Precision.INT8, reason="to try it", component="head", kind="linear")
    made = lower(model, plan_classifier(model, rules=(rule,)), scales({"x": (-1.0, 1.0)}), USUAL)
    onnx.save(made, tmp_path / "made.onnx")
    operators = executed_operators(tmp_path / "made.onnx")
    assert (operators["QGemm"], operators["DequantizeLinear"]) == (1, 0)


def patches() -> onnx.ModelProto:
    """Non-overlapping patches as SigLIP's are exported (auto_pad), with a Shape that looks at the input as well."""
    rng = np.random.default_rng(3)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="c", strides=[8, 8], auto_pad="VALID"),
        helper.make_node("Shape", ["x"], ["s"], name="s"),
        helper.make_node("Cast", ["s"], ["f"], name="f", to=onnx.TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["f"], ["m"], name="m"),
        helper.make_node("Add", ["c", "m"], ["y"], name="y"),
    ]
    weight = rng.standard_normal((4, 3, 8, 8)).astype(np.float32)
    return model_of(nodes, {"w": weight}, ["n", 3, 16, 16], ["n", 4, 2, 2])


def test_patches_are_taken_from_the_pixels_though_a_shape_reads_the_input() -> None:
    steps = Preprocess.from_flags((0.5,) * 3, (0.5,) * 3, (16, 16))
    image = Image.fromarray(np.random.default_rng(4).integers(0, 256, (16, 16, 3), np.uint8))
    pixels = steps(image)[None]
    graph = gs.import_onnx(patches())
    assert take_pixels(graph, PixelInput.of(steps), frozenset({"c"}))
    made = gs.export_onnx(graph.cleanup().toposort())
    made.ir_version = 8
    wanted, found = (
        OnnxRuntimeEngine(model.SerializeToString(), threads=1).run({"x": pixels})["y"] for model in (patches(), made)
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-3)
