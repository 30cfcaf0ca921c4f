"""TRT2: does TensorRT fuse what stands between the pairs into INT8 kernels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import onnx

from edgeq.lint.base import GUIDE, MODELOPT, Rule
from edgeq.lint.graph import PAIR, LintGraph, number
from edgeq.model.graph.wiring import operator
from edgeq.plan.conditions import CONVOLUTIONS
from edgeq.quantize.int8.tensorrt_kernels import has_kernel

__all__ = ["FUSION_RULES"]

_PLACEMENT: Final = f"{GUIDE}, Q/DQ Layer-Placement Recommendations"
_ACTIVATIONS: Final = ("Clip", "LeakyRelu", "Relu")
_FLOAT_ONLY: Final = frozenset(
    {
        "GroupNormalization",
        "InstanceNormalization",
        "LRN",
        "LayerNormalization",
        "LogSoftmax",
        "LpNormalization",
        "Softmax",
    }
)
_OPEN: Final = "fp16-otherwise"


def _weight_alone(graph: LintGraph) -> Iterator[tuple[str, str]]:
    for node in graph.quantized_layers:
        if not graph.is_paired(node.input[0]):
            yield node.name, f"{node.op_type}: its weight is quantized, {node.input[0]} is not"


def _activation_alone(graph: LintGraph) -> Iterator[tuple[str, str]]:
    for node in graph.layers:
        if graph.is_paired(node.input[0]) and graph.weight_pair(node.input[1]) is None:
            yield node.name, f"{node.op_type}: {node.input[0]} is quantized, its weight is not"


def _no_kernel(graph: LintGraph) -> Iterator[tuple[str, str]]:
    for node in graph.quantized_layers:
        if node.op_type not in CONVOLUTIONS:
            continue
        pair = graph.weight_pair(node.input[1])
        shape = graph.shapes.get(graph.stored_weight(pair), ()) if pair is not None else ()
        if len(shape) < 3:
            continue
        outputs, inputs, *kernel = shape if node.op_type == "Conv" else (shape[1], shape[0], *shape[2:])
        groups = number(node, "group", 1)
        if node.op_type == "ConvTranspose" and groups > 1:
            yield node.name, f"a ConvTranspose in {groups} groups, whose scales for outputs groups would share"
        elif not has_kernel(outputs, inputs, kernel, groups, first=node.op_type == "Conv" and _is_first(node, graph)):
            grouped = f", in {groups} groups" if groups > 1 else ""
            yield node.name, f"{inputs} to {outputs} channels of {' x '.join(map(str, kernel))}{grouped}"


def _is_first(node: onnx.NodeProto, graph: LintGraph) -> bool:
    """Whether a layer reads what the network is given, through its pair."""
    name = node.input[0]
    for kind in (PAIR[1], PAIR[0]):
        maker = graph.maker(name, kind)
        name = maker.input[0] if maker is not None else name
    return name in graph.given


def _cast_behind(graph: LintGraph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes:
        if operator(node) == "Cast" and graph.from_integers(node.input[0]):
            yield node.name, f"a Cast of {node.input[0]}, which an INT8 layer writes"


def _one_sided(graph: LintGraph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes:
        pairs = [name for name in node.input if graph.is_paired(name) and graph.weight_pair(name) is None]
        if operator(node) != "Add" or not pairs:
            continue
        bare = [name for name in node.input if not graph.is_paired(name) and not graph.is_fixed(name)]
        if bare and not all(map(graph.from_integers, bare)):
            yield node.name, f"adds {bare[0]}, which is not quantized, to what is"


def _residual(graph: LintGraph) -> Iterator[tuple[str, str]]:
    planned = None if graph.plan is None else {each.layer: each.rule for each in graph.plan.decisions}
    for node in graph.nodes:
        if operator(node) != "Add" or any(map(graph.is_paired, node.input)) or any(map(graph.is_fixed, node.input)):
            continue
        if planned is not None and planned.get(node.name) != _OPEN:  # a rule keeps it in floating point
            continue
        makers = [graph.makers[name] for name in node.input if name in graph.makers and len(graph.readers[name]) == 1]
        if any(each.op_type in CONVOLUTIONS and graph.weight_pair(each.input[1]) for each in makers):
            yield node.name, "a residual addition behind an INT8 convolution, of which no side is quantized"


def _before_activation(graph: LintGraph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes:
        dequantized = graph.maker(node.input[0], PAIR[1]) if operator(node) in _ACTIVATIONS else None
        quantized = graph.maker(dequantized.input[0], PAIR[0]) if dequantized is not None else None
        if quantized is not None and graph.from_integers(quantized.input[0]):
            yield node.name, f"a pair stands between {node.op_type} and the INT8 layer that would apply it"


def _float_only(graph: LintGraph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes:
        if operator(node) in _FLOAT_ONLY and graph.is_paired(node.input[0]):
            yield node.name, f"a pair before {node.op_type}, which has no INT8 kernel"


FUSION_RULES: Final = (
    Rule(
        "TRT201",
        "weight-alone",
        "warning",
        "quantize its input too: it computes in floating point, on rounded weights",
        _PLACEMENT,
        _weight_alone,
    ),
    Rule(
        "TRT202",
        "activation-alone",
        "warning",
        "quantize its weight too, or take the pair out: it rounds and saves nothing",
        _PLACEMENT,
        _activation_alone,
    ),
    Rule(
        "TRT203",
        "no-kernel",
        "warning",
        "leave it in FP16: for these channels there is no INT8 kernel",
        f"{MODELOPT}, find_nodes_from_convs_to_exclude",
        _no_kernel,
    ),
    Rule(
        "TRT204",
        "cast-behind",
        "warning",
        "give the pairs scales of the type wanted: a Cast keeps the kernel from being fused with what follows",
        _PLACEMENT,
        _cast_behind,
    ),
    Rule(
        "TRT205",
        "one-sided-addition",
        "warning",
        "quantize the other side as well: the addition runs by itself, in floating point",
        _PLACEMENT,
        _one_sided,
    ),
    Rule(
        "TRT206",
        "float-residual",
        "warning",
        "quantize the side that is no convolution's: the addition is done in its accumulator then",
        f"{_PLACEMENT}; {MODELOPT}, build_non_residual_input_map",
        _residual,
    ),
    Rule(
        "TRT207",
        "pair-before-activation",
        "warning",
        "put the pair behind the activation, which the kernel applies while it writes",
        _PLACEMENT,
        _before_activation,
    ),
    Rule("TRT208", "float-operator", "note", "take the pair out: it rounds and saves nothing", _PLACEMENT, _float_only),
)
