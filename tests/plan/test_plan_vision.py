"""The plan of a vision graph: two components by the names of nodes, FP16 unless a rule before says otherwise."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeq.errors import PlanError
from edgeq.plan.precision import Precision, Rule
from edgeq.plan.rules import plan_vision


def graph() -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="/vision/encoder/layers.0/fc1/MatMul"),
        helper.make_node("Relu", ["a"], ["b"], name="/Relu"),
        helper.make_node("MatMul", ["b", "w"], ["y"], name="/connector/linear_1/MatMul"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in "xy"]
    weight = numpy_helper.from_array(np.eye(2, dtype=np.float32), "w")
    made = helper.make_graph(nodes, "test", values[:1], values[1:], [weight])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def test_everything_is_fp16_in_its_component() -> None:
    plan = plan_vision(graph())
    found = [(decision.component, decision.precision, decision.rule) for decision in plan.decisions]
    assert found == [
        ("vision", Precision.FP16, "fp16-vision"),
        ("vision", Precision.FP16, "fp16-vision"),
        ("connector", Precision.FP16, "fp16-connector"),
    ]


def test_a_rule_before_decides_and_the_others_are_noted() -> None:
    rule = Rule(name="mine", precision=Precision.FP32, reason="to compare", component="connector")
    decision = plan_vision(graph(), rules=[rule]).decisions[2]
    assert (decision.precision, decision.reason, decision.overruled) == (
        Precision.FP32,
        "to compare",
        ("fp16-connector",),
    )


@pytest.mark.parametrize("name", ["elsewhere", "fp16-vision"])
def test_a_rule_that_matches_nothing_or_has_a_name_that_is_taken(name: str) -> None:
    with pytest.raises(PlanError):
        plan_vision(graph(), rules=[Rule(name=name, precision=Precision.FP32, reason="r", layer="/none/*")])


def test_angles_are_fp32_and_what_also_goes_elsewhere_is_not() -> None:
    """A position of 300 at frequency 0.7: FP16 would turn by 0.1 too far."""
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["a"], name="/vision/Mul"),
        helper.make_node("Unsqueeze", ["a", "axis"], ["b"], name="/vision/Unsqueeze"),
        helper.make_node("Cos", ["b"], ["c"], name="/vision/Cos"),
        helper.make_node("Sin", ["b"], ["d"], name="/vision/Sin"),
        helper.make_node("Mul", ["c", "d"], ["e"], name="/vision/Mul_1"),
        helper.make_node("Mul", ["e", "w"], ["f"], name="/vision/Mul_2"),
        helper.make_node("Cos", ["f"], ["g"], name="/vision/Cos_1"),
        helper.make_node("Add", ["f", "g"], ["y"], name="/vision/Add"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    constants = [
        numpy_helper.from_array(np.ones(2, np.float32), "w"),
        numpy_helper.from_array(np.array([1], np.int64), "axis"),
    ]
    made = helper.make_graph(nodes, "test", [x], [y], constants)
    plan = plan_vision(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10))
    assert plan.layers(Precision.FP32) == {f"/vision/{name}" for name in ("Mul", "Unsqueeze", "Cos", "Sin", "Cos_1")}
