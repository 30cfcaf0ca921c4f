"""TRT0: does the parser take the file at all: opset, operators, types, axes, sizes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from onnx import TensorProto

from edgeq.lint.base import GUIDE, ONNX, PARSER, WHOLE, Rule
from edgeq.lint.graph import PAIR, LintGraph, type_name
from edgeq.lint.operators import CONSTANT_INPUTS, INTEGER_FORMS, OPSETS, TAKEN
from edgeq.model.graph.external_data import is_external
from edgeq.model.graph.wiring import operator

__all__ = ["FILE_RULES"]

_PLUGINS: Final = "trt"
"""Operators of this domain are NVIDIA's own."""
_INDICES: Final = frozenset({TensorProto.BOOL, TensorProto.INT32, TensorProto.INT64})
"""Conditions, indices and shapes, which operators on numbers read and write as well."""
_DATA_DEPENDENT: Final = ("NonMaxSuppression", "NonZero")
_PER_CHANNEL_OPSET: Final = 13
_HALF_SCALES_OPSET: Final = 19


def _old_opset(graph: LintGraph) -> Iterator[tuple[str, str]]:
    if graph.opset < OPSETS[0]:
        yield WHOLE, f"opset {graph.opset}; the parser reads {OPSETS[0]} and later"
    for node in graph.pairs() if graph.opset < _HALF_SCALES_OPSET else ():
        scale = graph.constants.get(node.input[1]) if len(node.input) > 1 else None
        if scale is None:
            continue
        if scale.data_type == TensorProto.FLOAT16:
            yield node.name, f"an FP16 scale in opset {graph.opset}; pairs take it from {_HALF_SCALES_OPSET} on"
        elif graph.opset < _PER_CHANNEL_OPSET and len(scale.dims):
            yield (
                node.name,
                f"a scale for each channel in opset {graph.opset}; pairs take it from {_PER_CHANNEL_OPSET} on",
            )


def _new_opset(graph: LintGraph) -> Iterator[tuple[str, str]]:
    if graph.opset > OPSETS[1]:
        yield WHOLE, f"opset {graph.opset}; the parser of TensorRT 10.0 to 10.3 is made for {OPSETS[1]} at the most"


def _integer_form(graph: LintGraph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes:
        if operator(node) in INTEGER_FORMS:
            yield node.name, f"{operator(node)} has its quantization inside, not as a pair"


def _unknown_operator(graph: LintGraph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes:
        name = operator(node)
        if name not in TAKEN and name not in INTEGER_FORMS and not node.domain.startswith(_PLUGINS):
            yield node.name, f"the parser has no {name}; a plugin would be needed"


def _type(graph: LintGraph) -> Iterator[tuple[str, str]]:
    if graph.types_fault:
        yield WHOLE, f"the element types contradict each other: {graph.types_fault}"
    for node in graph.nodes:
        taken = TAKEN.get(operator(node))
        if taken is None:
            continue
        touched = {graph.types.get(name, 0) for name in (*node.input, *node.output) if name} - {0}
        others = set() if node.op_type in PAIR else _INDICES  # integers and zero points of pairs: TRT1
        allowed = taken | others | {TensorProto.DOUBLE, *(touched if node.op_type in PAIR else ())}
        for kind in sorted(touched - allowed):
            if kind == TensorProto.UINT8 and any(name in graph.given for name in node.input):
                continue
            yield node.name, f"the parser takes no {node.op_type} of {type_name(kind)}"


def _double(graph: LintGraph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes:
        if any(graph.types.get(name) == TensorProto.DOUBLE for name in node.output if name in graph.computed):
            yield node.name, "computed in float64, which becomes FP32"


def _computed_axes(graph: LintGraph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes:
        slot = CONSTANT_INPUTS.get(operator(node), len(node.input))
        if slot < len(node.input) and node.input[slot] and not graph.is_fixed(node.input[slot]):
            yield node.name, f"{node.input[slot]}, of {node.op_type}, is computed and must be constant"


def _free_axes(graph: LintGraph) -> Iterator[tuple[str, str]]:
    for value in graph.model.graph.input:
        axes = value.type.tensor_type.shape.dim
        if any(not axis.HasField("dim_value") for axis in axes):
            shape = "x".join(str(axis.dim_value) if axis.HasField("dim_value") else "?" for axis in axes)
            yield value.name, f"of shape {shape}"


def _data_dependent(graph: LintGraph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes:
        if operator(node) in _DATA_DEPENDENT and node.output[0] in graph.computed:
            yield node.name, f"how much {node.op_type} gives depends on the image"


def _other_outputs(graph: LintGraph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes:
        unread = {"LayerNormalization": 1, "MaxPool": 1}.get(operator(node), len(node.output))
        if any(name and (name in graph.readers or name in graph.outputs) for name in node.output[unread:]):
            yield node.name, f"the parser gives the first output of {node.op_type} alone"


def _outside(graph: LintGraph) -> Iterator[tuple[str, str]]:
    locations = {
        entry.value
        for tensor in graph.model.graph.initializer
        if is_external(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    for location in sorted(locations - {graph.path.name}):
        yield location, "weights lie in this file, which must be beside the graph where it is parsed"


FILE_RULES: Final = (
    Rule("TRT001", "operator", "error", "export it in other operators, or bring a plugin", PARSER, _unknown_operator),
    Rule(
        "TRT002",
        "integer-operator",
        "error",
        "quantize statically in the QDQ form: TensorRT reads pairs alone, and has no dynamic INT8",
        PARSER,
        _integer_form,
    ),
    Rule("TRT003", "type", "error", "cast it to a type that the parser takes", PARSER, _type),
    Rule("TRT004", "double", "warning", "export it in float32", PARSER, _double),
    Rule("TRT005", "computed-axes", "error", "export with fixed axes, or simplify the graph", PARSER, _computed_axes),
    Rule("TRT006", "old-opset", "error", "export in a newer opset", ONNX, _old_opset),
    Rule(
        "TRT007", "new-opset", "warning", "export in opset 17 to 19, or build with a newer TensorRT", PARSER, _new_opset
    ),
    Rule(
        "TRT008",
        "free-axes",
        "note",
        "give the sizes in an optimization profile (trtexec: --minShapes, --optShapes, --maxShapes)",
        f"{GUIDE}, Working with Dynamic Shapes",
        _free_axes,
        inside=False,
    ),
    Rule(
        "TRT009",
        "data-dependent",
        "note",
        "memory for the most is planned, and an output allocator is needed",
        f"{GUIDE}, Dynamically Shaped Output",
        _data_dependent,
    ),
    Rule("TRT010", "further-output", "error", "leave that output out", PARSER, _other_outputs),
    Rule("TRT011", "external-data", "note", "copy both", f"{ONNX}, External Data", _outside, inside=False),
)
