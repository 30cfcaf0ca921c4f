"""FP16 graphs run as hardware would: what overflows, vanishes or is rounded there, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.model.graph.element_types import element_types
from edgeq.plan.precision import Decision, Precision, PrecisionPlan
from edgeq.quantize.fp16.convert import to_fp16
from edgeq.quantize.fp16.fp16_simulation import simulate_fp16

FLOAT = TensorProto.FLOAT


def graph(nodes: Sequence[tuple[str, Sequence[str], str]], weights: dict[str, Any]) -> onnx.ModelProto:
    """Nodes (operator, inputs, output); node and output have one name."""
    made = helper.make_graph(
        [helper.make_node(op, list(inputs), [output], name=output) for op, inputs, output in nodes],
        "test",
        [helper.make_tensor_value_info("x", FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info(nodes[-1][2], FLOAT, ["batch", 2])],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def in_fp16(model: onnx.ModelProto, *fp32: str) -> onnx.ModelProto:
    decisions = tuple(
        Decision(
            layer=node.name,
            op=node.op_type,
            precision=Precision.FP32 if node.name in fp32 else Precision.FP16,
            rule="test",
            reason="test",
        )
        for node in model.graph.node
    )
    return to_fp16(model, PrecisionPlan(decisions=decisions))


def run(model: onnx.ModelProto, *values: float) -> list[float]:
    engine = OnnxRuntimeEngine(model.SerializeToString(), threads=1)
    given: NDArray[np.float32] = np.array([values], np.float32)
    (found,) = engine.run({"x": given}).values()
    return [float(value) for value in found[0]]


def test_a_product_beyond_fp16_is_infinite_though_it_is_made_small_again() -> None:
    half = in_fp16(graph([("Mul", ["x", "big"], "a"), ("Mul", ["a", "small"], "y")], {"big": 1024, "small": 2**-10}))
    assert run(half, 100, 1) == [100, 1]  # what ONNX Runtime makes of it on a CPU
    assert run(simulate_fp16(half), 100, 1) == [np.inf, 1]  # 102,400 is beyond 65,504


def test_numbers_are_rounded_at_each_layer() -> None:
    """FP16 has 11 bits: of 2049 and 2051 only even neighbours exist, ties go to the even mantissa."""
    half = in_fp16(graph([("Add", ["x", "one"], "a"), ("Sub", ["a", "two"], "y")], {"one": 1, "two": 2048}))
    assert run(simulate_fp16(half), 2048, 2050) == [0, 4]


def test_a_layer_in_fp32_is_not_rounded() -> None:
    """One Mul in FP32: what it writes stays, and is rounded for the FP16 layer that reads it alone."""
    nodes = [("Mul", ["x", "big"], "a"), ("Mul", ["a", "small"], "b"), ("Add", ["b", "zero"], "y")]
    model = graph(nodes, {"big": 1024, "small": 2**-10, "zero": 0})
    assert run(simulate_fp16(in_fp16(model, "a", "b")), 100, 1) == [100, 1]
    assert run(simulate_fp16(in_fp16(model, "a")), 100, 1)[0] == np.inf  # the border to FP16 is too narrow


def test_constants_have_the_numbers_of_fp16() -> None:
    half = in_fp16(graph([("Add", ["x", "weight"], "y")], {"weight": [0.1, 3.0]}))
    assert run(simulate_fp16(half), 0, 0) == [float(np.float16(0.1)), 3.0]


def test_types_of_the_graph() -> None:
    half = in_fp16(graph([("Mul", ["x", "w"], "a"), ("Relu", ["a"], "y")], {"w": 2}))
    before = half.SerializeToString()
    made = simulate_fp16(half)
    onnx.checker.check_model(made, full_check=True)
    assert half.SerializeToString() == before
    types = element_types(made)
    assert {
        name for name, kind in types.items() if kind == TensorProto.FLOAT16 and not name.endswith(("half", "exact"))
    } == set()
    assert types["y"] == FLOAT
