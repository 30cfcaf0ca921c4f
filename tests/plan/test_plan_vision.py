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
