"""A normalization in pieces: joined it survives FP16, and what cannot be joined is FP32 by a rule of every plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.export.simplify import simplify
from edgeq.plan.precision import Decision, Precision, PrecisionPlan
from edgeq.plan.rules import plan_classifier, plan_vision
from edgeq.quantize.fp16.convert import to_fp16
from edgeq.quantize.fp16.fp16_simulation import simulate_fp16

CHANNELS = 8
PIECES = ("mean", "centred", "squared", "variance", "safe", "root", "normal")
LARGE = 1000 * np.random.default_rng(0).standard_normal((1, CHANNELS, 3, 3)).astype(np.float32)
"""Squares go up to millions."""


def network(axis: int) -> onnx.ModelProto:
    """A normalization over one axis, then a convolution of its kind's size, averaged."""
    rng = np.random.default_rng(1)
    sized = [CHANNELS if place == axis % 4 else 1 for place in range(4)] if axis == 1 else [3]
    weights = {
        "two": np.array(2, np.float32),
        "epsilon": np.array(1e-6, np.float32),
        "gamma": rng.uniform(0.5, 2, sized).astype(np.float32),
        "beta": rng.normal(0, 1, sized).astype(np.float32),
        "weight": rng.normal(0, 0.3, (16, CHANNELS, 1, 1)).astype(np.float32),
    }

    def node(op: str, inputs: Sequence[str], name: str, **settings: Any) -> onnx.NodeProto:
        return helper.make_node(op, list(inputs), [name], name=name, **settings)

    nodes = [
        node("ReduceMean", ["x"], "mean", axes=[axis]),
        node("Sub", ["x", "mean"], "centred"),
        node("Pow", ["centred", "two"], "squared"),
        node("ReduceMean", ["squared"], "variance", axes=[axis]),
        node("Add", ["variance", "epsilon"], "safe"),
        node("Sqrt", ["safe"], "root"),
        node("Div", ["centred", "root"], "normal"),
        node("Mul", ["normal", "gamma"], "scaled"),
        node("Add", ["scaled", "beta"], "shifted"),
        node("Conv", ["shifted", "weight"], "y"),
    ]
    graph = helper.make_graph(
        nodes,
        "normalizing",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", CHANNELS, 3, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 16, 3, 3])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def run(model: onnx.ModelProto) -> NDArray[np.float32]:
    (found,) = OnnxRuntimeEngine(model.SerializeToString(), threads=1).run({"x": LARGE}).values()
    return found.astype(np.float32)


def in_half(model: onnx.ModelProto, plan: PrecisionPlan | None = None) -> NDArray[np.float32]:
    """What it computes in FP16; all of it, or what a plan has in FP16."""
    whole = tuple(
        Decision(layer=node.name, op=node.op_type, precision=Precision.FP16, rule="test", reason="test")
        for node in model.graph.node
    )
    return run(simulate_fp16(to_fp16(model, plan or PrecisionPlan(decisions=whole))))


def test_pieces_in_fp16_give_no_answer() -> None:
    found = in_half(network(1))
    assert np.abs(found - run(network(1))).max() > 1, "the root is infinite, and what is divided by it vanishes"


def test_a_layer_norm_that_was_in_pieces_survives_fp16() -> None:
    model = network(-1)
    joined = simplify(model)
    assert "LayerNormalization" in [node.op_type for node in joined.graph.node]
    np.testing.assert_allclose(in_half(joined), run(model), rtol=0, atol=0.02)


@pytest.mark.parametrize("plan_of", [plan_classifier, plan_vision])
def test_pieces_that_cannot_be_joined_are_fp32(plan_of: Callable[[onnx.ModelProto], PrecisionPlan]) -> None:
    model = simplify(network(1))
    plan = plan_of(model)
    decided = {each.layer: each for each in plan.decisions}
    assert {name for name, each in decided.items() if each.rule == "fp32-norm-pieces"} == {*PIECES} - {"mean"}
    assert decided["squared"].precision is Precision.FP32
    assert decided["scaled"].precision is Precision.FP16
    if plan_of is plan_vision:
        np.testing.assert_allclose(in_half(model, plan), run(model), rtol=0, atol=0.02)
