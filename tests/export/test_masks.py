"""Mask constants within FP16's reach, and what is no mask left as it is."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import text_towers
from onnx import TensorProto, helper, numpy_helper

from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import QuantizeError
from edgeq.export.masks import MASKED, fold_mask_constants
from edgeq.export.parity import Network, prove_parity
from edgeq.model.graph.tensors import constant_tensors
from edgeq.plan.rules import plan_float
from edgeq.quantize.fp16.convert import to_fp16

LOWEST = float(np.finfo(np.float32).min)


def network(model: onnx.ModelProto) -> Network:
    engine = OnnxRuntimeEngine(model.SerializeToString(), threads=1)
    return lambda batch: engine.run({engine.inputs[0]: batch})[engine.outputs[0]]


def smallest(model: onnx.ModelProto) -> float:
    """The smallest float32 constant."""
    tensors = [each for each in constant_tensors(model.graph).values() if each.data_type == TensorProto.FLOAT]
    return min(float(numpy_helper.to_array(each).min()) for each in tensors)


@pytest.mark.parametrize(("attention", "before"), [("eager", LOWEST), ("sdpa", -np.inf)])
def test_a_causal_mask_computes_the_same(attention: str, before: float) -> None:
    model = text_towers.clip_tower(attention=attention)
    kept = model.SerializeToString()
    made = fold_mask_constants(model)
    assert smallest(model) == before
    assert smallest(made) == MASKED
    assert model.SerializeToString() == kept
    ids = text_towers.captions(20).values()
    assert prove_parity(network(model), network(made), ids, bound=1e-6).images == 20


def test_fp16_takes_the_tower_then() -> None:
    model = text_towers.clip_tower()
    plan = plan_float(model, because="a test")
    with pytest.raises(QuantizeError, match="cannot be FP16"):
        to_fp16(model, plan)
    ids = text_towers.captions(20)
    half = text_towers.answers(to_fp16(fold_mask_constants(model), plan), ids)
    whole = text_towers.answers(model, ids)
    assert 0 < np.linalg.norm(half - whole) < 0.005 * np.linalg.norm(whole)  # FP16 rounds to 2**-11


def masked(*more: onnx.NodeProto, outputs: tuple[str, ...] = ("share",)) -> onnx.ModelProto:
    """float32 `x` [2, 4] -> the softmax of x plus a mask, and what other nodes make of the mask."""
    nodes = [
        helper.make_node("Add", ["x", "mask"], ["scores"], name="scores"),
        helper.make_node("Softmax", ["scores"], ["share"], name="share"),
        *more,
    ]
    mask = numpy_helper.from_array(np.array([0, LOWEST, -3.0, -2e4], np.float32), "mask")
    graph = helper.make_graph(
        nodes,
        "masked",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 4]) for name in outputs],
        [mask],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def mask_of(model: onnx.ModelProto) -> list[float]:
    return [float(value) for value in numpy_helper.to_array(constant_tensors(model.graph)["mask"])]


def test_only_numbers_beyond_the_bound_are_raised() -> None:
    assert mask_of(fold_mask_constants(masked())) == [0.0, MASKED, -3.0, MASKED]


@pytest.mark.parametrize(
    ("op", "inputs"), [("Mul", ["x", "mask"]), ("Max", ["x", "mask"]), ("Add", ["x", "mask"]), ("Where", ["b", "mask"])]
)
def test_a_constant_that_is_read_otherwise_stays(op: str, inputs: list[str]) -> None:
    nodes = [helper.make_node("Cast", ["x"], ["b"], name="b", to=TensorProto.BOOL)] if op == "Where" else []
    given = [*inputs, "x"] if op == "Where" else inputs
    model = masked(*nodes, helper.make_node(op, given, ["other"], name="other"), outputs=("share", "other"))
    assert mask_of(fold_mask_constants(model)) == mask_of(model)


def test_scores_that_are_given_to_the_caller_keep_their_mask() -> None:
    model = masked(outputs=("share", "scores"))
    assert mask_of(fold_mask_constants(model)) == mask_of(model)
