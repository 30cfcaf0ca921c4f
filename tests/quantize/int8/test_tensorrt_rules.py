"""Every graph that TensorRT is given keeps to the numbered rules; a graph that breaks one is found by its number."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import text_towers
from lowering import node, scales
from networks import tiny_network
from onnx import TensorProto, helper, numpy_helper
from residuals import residual_network
from tensorrt_rules import broken_rules

from edgeq.export.fold import fold_batchnorm
from edgeq.export.simplify import simplify
from edgeq.model.graph.element_types import unfit_layers
from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.plan.rules import keep_range, plan_classifier
from edgeq.quantize.int8.qdq import calibrated_tensors, lower
from edgeq.quantize.int8.tensorrt import LOWERING
from edgeq.quantize.int8.tensorrt_kernels import has_kernel

Graph = tuple[onnx.ModelProto, PrecisionPlan]


def made(model: onnx.ModelProto) -> Graph:
    plan = plan_classifier(model)
    plan = LOWERING.planned(model, keep_range(model, plan, unfit_layers(model)))
    ranges = scales(dict.fromkeys(calibrated_tensors(model, plan), (-3.0, 3.0)))
    return LOWERING.types(lower(model, plan, ranges, LOWERING), plan), plan


def squeezing(channels: int = 16) -> onnx.ModelProto:
    """Squeeze and excitation by a ReduceMean, and a nearest Resize behind a convolution, with so many channels."""
    rng = np.random.default_rng(1)
    nodes = [
        node("Conv", ["x", "first"], "stem", pads=[1, 1, 1, 1]),
        node("Sigmoid", ["stem"], "bent"),
        node("ReduceMean", ["bent"], "squeezed", axes=[2, 3], keepdims=1),
        node("Conv", ["squeezed", "point"], "gate"),
        node("Mul", ["bent", "gate"], "gated"),
        node("Conv", ["gated", "point"], "project"),
        node("Resize", ["project", "", "twice"], "larger", mode="nearest"),
        node("Conv", ["larger", "point"], "last"),
        node("GlobalAveragePool", ["last"], "pooled"),
        node("Flatten", ["pooled"], "flat"),
        node("Gemm", ["flat", "head.weight"], "logits"),
    ]
    weights = {
        "first": rng.normal(0, 0.2, (channels, 3, 3, 3)).astype(np.float32),
        "point": rng.normal(0, 0.2, (channels, channels, 1, 1)).astype(np.float32),
        "head.weight": rng.normal(0, 0.2, (channels, 3)).astype(np.float32),
        "twice": np.array([1, 1, 2, 2], np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "squeezing",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    "mobile": lambda: fold_batchnorm(simplify(tiny_network()))[0],
    "residual": lambda: residual_network(3),
    "squeezing": squeezing,
    "few channels": lambda: squeezing(12),
    "clip's text": lambda: text_towers.clip_tower(attention="sdpa"),
    "siglip's text": text_towers.siglip_tower,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_graph_keeps_to_the_rules(name: str) -> None:
    graph, plan = made(NETWORKS[name]())
    assert broken_rules(graph, plan) == []
    assert plan.layers(Precision.INT8) or name == "few channels"


def test_averages_and_resizing_read_integers() -> None:
    graph, _ = made(squeezing())
    makers = {name: each.op_type for each in graph.graph.node for name in each.output}
    read = {each.name: makers.get(each.input[0], "") for each in graph.graph.node if each.input}
    assert {read[name] for name in ("squeezed", "larger", "pooled", "stem", "last")} == {"DequantizeLinear"}
    assert read["flat"] == "GlobalAveragePool"


@pytest.mark.parametrize(
    ("outputs", "inputs", "kernel", "groups", "first", "has"),
    [
        (64, 64, (3, 3), 1, False, True),
        (16, 16, (1, 3), 1, False, True),
        (32, 3, (3, 3), 1, True, True),
        (8, 3, (3, 3), 1, True, True),
        (8, 8, (3, 3), 1, False, False),
        (24, 8, (3, 3), 1, False, True),
        (24, 8, (1, 3), 1, False, False),
        (20, 10, (3, 3), 1, False, False),
        (64, 1, (3, 3), 64, False, True),
        (64, 1, (1, 1), 64, False, False),
        (12, 1, (3, 3), 12, False, False),
    ],
)
def test_the_kernels_are_modelopts(
    outputs: int, inputs: int, kernel: tuple[int, int], groups: int, first: bool, has: bool
) -> None:
    assert has_kernel(outputs, inputs, kernel, groups, first=first) is has


def test_a_convolution_without_a_kernel_is_fp16_and_says_why() -> None:
    _, plan = made(squeezing(12))
    decided = {decision.layer: decision for decision in plan.decisions}
    assert decided["project"].precision is Precision.FP16
    assert decided["project"].rule == "fp16-no-kernel"
    assert decided["project"].reason == "TensorRT has no INT8 kernel for 12 to 12 channels of 1 x 1"
    assert LOWERING.planned(squeezing(12), plan) is plan


def _node(graph: onnx.ModelProto, name: str) -> onnx.NodeProto:
    found: onnx.NodeProto = next(each for each in graph.graph.node if each.name == name)
    return found


def _set(graph: onnx.ModelProto, part: str, value: float | int) -> None:
    """Every number of the constants whose name ends so."""
    for tensor in graph.graph.initializer:
        if part in tensor.name:
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(np.full_like(values, value), tensor.name))


def _older(graph: onnx.ModelProto) -> None:
    graph.opset_import[0].version = 20


def _subnormal(graph: onnx.ModelProto) -> None:
    _set(graph, "one0.weight.scale", 2.0**-20)


def _offset(graph: onnx.ModelProto) -> None:
    _set(graph, "relu0.zero", 3)


def _axis(graph: onnx.ModelProto) -> None:
    _node(graph, "one0.weight.DequantizeLinear").attribute[0].i = 1


def _bare(graph: onnx.ModelProto) -> None:
    conv = _node(graph, "one0")
    conv.input[0] = _node(graph, _maker(graph, _maker_input(graph, conv.input[0]))).input[0]


def _maker(graph: onnx.ModelProto, tensor: str) -> str:
    return str(next(each.name for each in graph.graph.node if tensor in each.output))


def _maker_input(graph: onnx.ModelProto, tensor: str) -> str:
    return str(_node(graph, _maker(graph, tensor)).input[0])


def _cast(graph: onnx.ModelProto) -> None:
    written = _node(graph, "stem").output[0]
    reader = next(each for each in graph.graph.node if written in each.input)
    graph.graph.node.append(helper.make_node("Cast", [written], ["wide"], name="wide", to=TensorProto.FLOAT16))
    reader.input[list(reader.input).index(written)] = "wide"


@pytest.mark.parametrize(
    ("break_it", "number"), [(_older, 1), (_subnormal, 2), (_offset, 3), (_axis, 4), (_bare, 5), (_cast, 6)]
)
def test_a_graph_that_breaks_a_rule_is_found(break_it: Callable[[onnx.ModelProto], None], number: int) -> None:
    graph, plan = made(residual_network(2))
    break_it(graph)
    assert number in {found for found, _ in broken_rules(graph, plan)}


def test_what_the_plan_has_in_fp16_and_the_graph_in_fp32_is_found() -> None:
    model = residual_network(2)
    plan = plan_classifier(model)
    ranges = scales(dict.fromkeys(calibrated_tensors(model, plan), (-3.0, 3.0)))
    wide = lower(model, plan, ranges, LOWERING)
    assert {1, 10} <= {number for number, _ in broken_rules(wide, plan)}
