"""What a plan sets on TensorRT's layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeq.errors import QuantizeError
from edgeq.plan.precision import Decision, Precision, PrecisionPlan
from edgeq.quantize.tensorrt_precisions import tensorrt_precisions
from edgeq.tensorrt.precisions import LayerPrecision

FP32, FP16, INT8, NF4 = Precision.FP32, Precision.FP16, Precision.INT8, Precision.NF4


def node(op: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [output], name=output, **attributes)


def network() -> onnx.ModelProto:
    """conv1 -> relu1 -+-> conv2 -+-> sum -> joined -> flat (behind shape arithmetic) -> head -> logits, best."""
    nodes = [
        node("Conv", ["x", "w"], "conv1", pads=[1, 1, 1, 1]),
        node("Relu", ["conv1"], "relu1"),
        node("Conv", ["relu1", "w"], "conv2", pads=[1, 1, 1, 1]),
        node("Add", ["conv2", "relu1"], "sum"),
        node("Concat", ["sum", "conv2"], "joined", axis=1),
        node("Shape", ["joined"], "shape"),
        node("Gather", ["shape", "first"], "batch_size"),
        node("Concat", ["batch_size", "rest"], "flat_shape", axis=0),
        node("Reshape", ["joined", "flat_shape"], "flat"),
        node("Neg", ["head_weight"], "negated"),
        node("MatMul", ["flat", "negated"], "head"),
        node("Softmax", ["head"], "logits"),
        node("ArgMax", ["head"], "best", axis=1),
    ]
    weights = {
        "w": np.ones((3, 3, 3, 3), np.float32),
        "first": np.array([0]),
        "rest": np.array([-1]),
        "head_weight": np.ones((6 * 64, 5), np.float32),
    }
    outputs = [("logits", TensorProto.FLOAT), ("best", TensorProto.INT64)]
    made = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


KINDS = {"conv1": INT8, "relu1": INT8, "conv2": INT8, "sum": INT8, "joined": INT8, "flat": FP16, "head": FP32}


def plan(kinds: Mapping[str, Precision] = KINDS) -> PrecisionPlan:
    return PrecisionPlan(
        decisions=tuple(
            Decision(layer=n.name, op=n.op_type, precision=kinds.get(n.name, FP32), rule="test", reason="test")
            for n in network().graph.node
        )
    )


def wanted() -> dict[str, LayerPrecision]:
    return {layer.name: layer for layer in tensorrt_precisions(plan(), network())}


def test_shapes_constants_and_concat_are_left_out() -> None:
    # best gives integers; negated follows from constants; the rest of the shape arithmetic gives integers.
    assert list(wanted()) == ["conv1", "relu1", "conv2", "sum", "flat", "head", "logits"]


def test_each_layer_computes_as_planned() -> None:
    assert {name: layer.precision for name, layer in wanted().items()} == {
        **dict.fromkeys(("conv1", "relu1", "conv2", "sum"), "int8"),
        "flat": "float16",
        "head": "float32",
        "logits": "float32",
    }


def test_a_layer_writes_what_its_readers_can_take() -> None:
    outputs = {name: layer.outputs for name, layer in wanted().items()}
    assert outputs["conv1"] == outputs["conv2"] == outputs["sum"] == ("int8",)
    assert outputs["flat"] == ("float16",)  # its reader's FP32 is what TensorRT reformats to
    assert outputs["head"] == outputs["logits"] == ("float32",)
    mixed = tensorrt_precisions(plan(KINDS | {"conv2": FP16}), network())
    # relu1 is read by conv2 in FP16 and by sum in INT8.
    assert {layer.name: layer.outputs for layer in mixed}["relu1"] == ("float16",)
    widest = tensorrt_precisions(plan(KINDS | {"conv2": FP16, "sum": FP32}), network())
    assert {layer.name: layer.outputs for layer in widest}["relu1"] == ("float32",)


def test_what_the_network_gives_is_float32() -> None:
    layers = tensorrt_precisions(plan(KINDS | {"logits": FP16}), network())
    last = layers[-1]
    assert (last.name, last.precision, last.outputs) == ("logits", "float16", ("float32",))


def test_a_plan_that_tensorrt_cannot_have_is_refused() -> None:
    with pytest.raises(QuantizeError, match="2 places") as caught:
        tensorrt_precisions(plan(KINDS | {"conv1": NF4, "head": NF4}), network())
    assert "conv1: TensorRT has no nf4" in str(caught.value)
    other = network()
    other.graph.node[0].name = "renamed"
    with pytest.raises(QuantizeError) as caught:
        tensorrt_precisions(plan(), other)
    assert caught.value.causes == ("conv1: planned, but not in the graph",)
