"""FP16 beside the pairs of TensorRT's graph: which types stand where, and what it computes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from lowering import node, scales
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeq.calibrate.scales import Scales
from edgeq.engine.onnxruntime import STAND_IN, OnnxRuntimeEngine
from edgeq.export.opset import raise_opset
from edgeq.model.graph.element_types import element_types
from edgeq.plan.precision import Precision, PrecisionPlan, Rule
from edgeq.plan.rules import keep_range, plan_classifier
from edgeq.quantize.fp16.fp16_simulation import simulate_fp16
from edgeq.quantize.int8.qdq import calibrated_tensors, lower
from edgeq.quantize.int8.tensorrt import LOWERING

RNG = np.random.default_rng(3)
IMAGE = RNG.uniform(-1, 1, (1, 16, 6, 6)).astype(np.float32)
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def network(*nodes: onnx.NodeProto, answer: Sequence[int] = (1, 5)) -> onnx.ModelProto:
    """float32 [1, 16, 6, 6] `x` through `nodes`, whose convolutions have the weights `w` and the biases `b`."""
    constants = {
        "w": RNG.normal(0, 0.1, (16, 16, 3, 3)).astype(np.float32),
        "b": RNG.normal(0, 0.1, 16).astype(np.float32),
        "matrix": RNG.normal(0, 0.3, (16, 5)).astype(np.float32),
        "long": RNG.normal(0, 0.1, (16 * 36, 5)).astype(np.float32),
    }
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", FLOAT, [1, 16, 6, 6])],
        [helper.make_tensor_value_info("head", FLOAT, list(answer))],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def conv(source: str, name: str) -> onnx.NodeProto:
    return node("Conv", [source, "w", "b"], name, pads=[1, 1, 1, 1])


HEAD = (node("GlobalAveragePool", ["last"], "pool"), node("Flatten", ["pool"], "flat"))
GEMM = node("Gemm", ["flat", "matrix"], "head")


def ranges(model: onnx.ModelProto, plan: PrecisionPlan, amax: dict[str, float] | None = None) -> Scales:
    limits = {name: (amax or {}).get(name, 4.0) for name in calibrated_tensors(model, plan)}
    return scales({name: (-limit, limit) for name, limit in limits.items()})


def typed(
    model: onnx.ModelProto, plan: PrecisionPlan | None = None, amax: dict[str, float] | None = None
) -> onnx.ModelProto:
    plan = plan or plan_classifier(model)
    made = LOWERING.types(lower(model, plan, ranges(model, plan, amax), LOWERING), plan)
    onnx.checker.check_model(made, full_check=True)
    return made


def casts(model: onnx.ModelProto) -> list[str]:
    return [made.input[0] for made in model.graph.node if made.op_type == "Cast"]


def run(model: onnx.ModelProto) -> NDArray[np.float32]:
    (answer,) = STAND_IN.open(model.SerializeToString(), threads=1).run({"x": IMAGE}).values()
    return np.asarray(answer, np.float32)


RESIDUAL = (
    conv("x", "one"),
    node("Relu", ["one"], "relu"),
    conv("relu", "two"),
    node("Add", ["two", "relu"], "sum"),
    node("Relu", ["sum"], "last"),
    *HEAD,
    GEMM,
)


def test_all_between_the_image_and_the_head_is_fp16() -> None:
    made = typed(network(*RESIDUAL))
    types = element_types(made)
    floats = {name for name, kind in types.items() if kind == FLOAT and not name.endswith(".scale")}
    # The image and the answer, the head's own tensors; the scales of the image's QuantizeLinear have its type.
    assert floats == {"x", "flat", "matrix", "head"}
    assert casts(made) == ["flat.fp16"], "before the head, behind no INT8 layer"
    assert {entry.version for entry in made.opset_import} == {19}
    biases = [each for each in made.graph.initializer if each.name.startswith("b")]
    assert [each.data_type for each in biases] == [HALF]


def test_it_computes_what_the_graph_in_fp32_computes() -> None:
    model = network(*RESIDUAL)
    plan = plan_classifier(model)
    wide = lower(model, plan, ranges(model, plan), LOWERING)
    half = LOWERING.types(wide, plan)
    right, found, rounded = run(wide), run(half), run(simulate_fp16(half))
    length = np.linalg.norm(right)
    # Two roundings of 2**-11 on a path of few tensors; an INT8 step more would be 0.03 of 4.
    assert np.linalg.norm(found - right) < 0.01 * length
    assert np.linalg.norm(rounded - right) < 0.01 * length
    assert (found != right).any()


def test_a_head_directly_behind_an_int8_layer_gets_fp32_without_a_cast() -> None:
    nodes = (conv("x", "one"), node("Relu", ["one"], "relu"), conv("relu", "last"), GEMM)
    model = network(*nodes[:-1], node("Flatten", ["last"], "flat"), node("Gemm", ["flat", "long"], "head"))
    keep = Rule(name="flat", precision=Precision.FP32, reason="as if it were the head's", layer="flat")
    made = typed(model, plan_classifier(model, rules=(keep,)))
    types = element_types(made)
    assert casts(made) == []
    assert types["last"] == FLOAT
    assert types["relu.fp16"] == HALF, "the layer before it is not read by the head"


def test_a_range_beyond_fp16_is_fp32_beside_its_pair() -> None:
    """127 steps of amax / 127: half of 65504 is where a photograph that was not seen may leave FP16."""
    model = network(*RESIDUAL)
    for amax, kind in ((30_000.0, HALF), (40_000.0, FLOAT)):
        types = element_types(typed(model, amax={"relu": amax}))
        name = "two.fp16" if kind == HALF else "two"
        assert types[name] == kind
    assert types["pool.fp16"] == HALF


def test_a_layer_in_fp32_among_fp16_ones_has_its_own_dequantized_tensor() -> None:
    """`relu` is read by two convolutions, of which one is fused with a layer in FP32 behind it."""
    nodes = (
        conv("x", "one"),
        node("Relu", ["one"], "relu"),
        conv("relu", "two"),
        conv("relu", "three"),
        node("Exp", ["three"], "grown"),
        node("Mul", ["two", "grown"], "last"),
        *HEAD,
        GEMM,
    )
    model = network(*nodes)
    plan = keep_range(model, plan_classifier(model), {"grown": "it reaches 1e5"})
    made = typed(model, plan)
    types = element_types(made)
    assert {types["relu.dq.fp16"], types["two.fp16"], types["last.fp16"]} == {HALF}
    assert {types["relu.dq.fp32"], types["three"], types["grown"]} == {FLOAT}
    assert casts(made) == ["grown", "flat.fp16"]
    assert np.isfinite(run(made)).all()


def test_scales_are_normal_numbers_of_fp16() -> None:
    """A channel whose weights are nearly zero would have a scale that FP16 rounds to 0, which TensorRT refuses."""
    model = network(*RESIDUAL)
    weight = next(each for each in model.graph.initializer if each.name == "w")
    values = numpy_helper.to_array(weight).copy()
    values[0] = 1e-9
    values[1] = 0.01 * np.sign(values[1])
    weight.CopyFrom(numpy_helper.from_array(values, "w"))
    made = typed(model, amax={"relu": 1e-7})
    found = {each.name: numpy_helper.to_array(each) for each in made.graph.initializer if ".scale" in each.name}
    for name, values in found.items():
        assert (values >= 2.0**-14).all(), name
        np.testing.assert_array_equal(values.astype(np.float16).astype(np.float64), values.astype(np.float64))
    stored = next(numpy_helper.to_array(each) for each in made.graph.initializer if each.name == "one.weight.q")
    assert not stored[0].any(), "1e-9 is 0 in steps of 2**-14"
    np.testing.assert_array_equal(np.abs(stored[1]), 127)  # 0.01 / 127 lies above 2**-14


def test_reductions_and_splits_of_opset_17_say_the_same_at_19() -> None:
    nodes = (
        node("ReduceMean", ["x"], "mean", axes=[2, 3], keepdims=1),
        helper.make_node("Split", ["mean"], ["left", "right"], name="split", axis=1),
        node("ReduceMax", ["right"], "most", keepdims=0),
        node("Add", ["left", "most"], "head"),
    )
    model = network(*nodes, answer=(1, 8, 1, 1))
    before = OnnxRuntimeEngine(model.SerializeToString(), threads=1).run({"x": IMAGE})["head"]
    raise_opset(model)
    onnx.checker.check_model(model, full_check=True)
    after = OnnxRuntimeEngine(model.SerializeToString(), threads=1).run({"x": IMAGE})["head"]
    np.testing.assert_array_equal(before, after)


def test_a_range_beyond_fp16_is_a_rule_of_the_plan() -> None:
    model = network(*RESIDUAL)
    plan = plan_classifier(model)
    made = keep_range(model, plan, {"pool": "it reaches 1e5", "two": "it reaches 1e5"})
    decided = {decision.layer: (decision.rule, decision.reason) for decision in made.decisions}
    assert decided["pool"] == ("fp32-range:pool", "it reaches 1e5")
    assert decided["two"][0] == "int8-weighted", "INT8 does not overflow"
    assert keep_range(model, made, {"pool": "it reaches 1e5"}) is made


@pytest.mark.parametrize("value", [65505.0, 1e-12])
def test_a_bias_that_fp16_does_not_hold_makes_its_kernel_write_fp32(value: float) -> None:
    model = network(*RESIDUAL)
    bias = next(each for each in model.graph.initializer if each.name == "b")
    bias.CopyFrom(numpy_helper.from_array(np.full(16, value, np.float32), "b"))
    types = element_types(typed(model))
    assert {types["one"], types["two"], types["last"]} == {FLOAT}
