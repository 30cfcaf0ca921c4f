"""Bring a model to an opset which all its readers know."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import inliner, version_converter

from edgeq.errors import ModelError, first_line
from edgeq.model.graph.element_types import element_types, opset_of, schema_of
from edgeq.model.graph.wiring import subgraphs

__all__ = ["HALF_PAIRS_OPSET", "MAX_OPSET", "MIN_OPSET", "is_supported", "raise_opset", "to_supported_opset"]

MIN_OPSET = 17
"""The oldest opset worked with: LayerNormalization is one node from here on."""
MAX_OPSET = 18
"""The newest opset worked with: TensorRT 10.3, the newest on JetPack 6 for Orin, is sure of it."""
HALF_PAIRS_OPSET = 19
"""The oldest opset whose QuantizeLinear and DequantizeLinear take FP16 scales. TensorRT's calibration fails on Orin
with it (NVIDIA/TensorRT#4797); a graph with such pairs is not calibrated."""

_DEFAULT = ("", "ai.onnx")
_REDUCTIONS = frozenset(
    f"Reduce{name}" for name in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
)
_WRITTEN_OUT = "edgeq.written-out"
_WHY = "opset 17 or 18: TensorRT 10.3 on Jetson Orin does not read all of what is newer"
_NEXT_STEP = "export the model with opset_version=17 or 18"


def is_supported(model: onnx.ModelProto) -> bool:
    """Whether the model's opset is 17 or 18."""
    return MIN_OPSET <= opset_of(model) <= MAX_OPSET


def to_supported_opset(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model itself when its opset is 17 or 18, else a converted copy, checked, with the same inputs and outputs.

    Operators that are newer than 18 (Gelu, Swish, RMSNormalization) are written out by ONNX's own definition of them.
    Where ONNX's converter does not know an operator, the copy is checked as one of the older opset: that this computes
    the same must be proved by running both.

    Raises:
        ModelError: the model cannot be converted.
    """
    if is_supported(model):
        return model
    version = opset_of(model)
    target = MIN_OPSET if version < MIN_OPSET else MAX_OPSET
    converted = _convert(model, version, target, path)
    if opset_of(converted) != target or _signature(converted) != _signature(model):
        raise ModelError(
            f"{path}: the conversion from opset {version} to {target} changed the inputs or outputs",
            next_step=_NEXT_STEP,
        )
    return converted


def raise_opset(model: onnx.ModelProto, target: int = HALF_PAIRS_OPSET) -> None:
    """Bring a model of opset 17 or 18 to a newer one, in place; its weights are not looked at.

    From 17 to 19 operators were only given more: but for the reductions, whose axes became an input, and Split, which
    must say how many parts it makes.

    Args:
        model: is changed.
        target: at most 19.
    """
    version = opset_of(model)
    if version < MAX_OPSET <= target:
        _reduce_by_input(model.graph)
    for entry in model.opset_import:
        if entry.domain in _DEFAULT:
            entry.version = max(entry.version, target)
    model.ir_version = max(model.ir_version, onnx.helper.find_min_ir_version_for(model.opset_import, True))


def _reduce_by_input(graph: onnx.GraphProto) -> None:
    """What changed with opset 18."""
    for node in graph.node:
        if node.domain in _DEFAULT and node.op_type in _REDUCTIONS:
            axes = next((item for item in node.attribute if item.name == "axes"), None)
            if axes is not None:
                name = f"{node.output[0]}.axes"
                graph.initializer.append(onnx.numpy_helper.from_array(np.array(axes.ints, np.int64), name))
                node.input.append(name)
                node.attribute.remove(axes)
        if node.domain in _DEFAULT and node.op_type == "Split" and len(node.input) == 1:
            node.attribute.append(onnx.helper.make_attribute("num_outputs", len(node.output)))
        for inner in subgraphs(node):
            _reduce_by_input(inner)


def _convert(model: onnx.ModelProto, version: int, target: int, path: Path) -> onnx.ModelProto:
    """Convert with ONNX's own converter, or else by name, and check what it made, shapes included."""
    written_out = _without_newer(model, target)
    try:
        converted = version_converter.convert_version(written_out, target)
        onnx.checker.check_model(converted, full_check=True)
    except Exception as error:  # it raises RuntimeError, ValueError, ConvertError, DecodeError, InferenceError
        try:
            converted = _renamed(written_out, target)
            onnx.checker.check_model(converted, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as second:
            raise ModelError(
                f"{path} has opset {version} and cannot be converted to {target}: {first_line(second)}",
                expected=_WHY,
                causes=(f"ONNX's converter: {first_line(error)}",),
                next_step=_NEXT_STEP,
            ) from error
    return converted


def _renamed(model: onnx.ModelProto, target: int) -> onnx.ModelProto:
    """A copy that says it is of another opset. Most versions of an operator since 18 only allow more types."""
    renamed = onnx.ModelProto()
    renamed.CopyFrom(model)
    for entry in renamed.opset_import:
        if entry.domain in _DEFAULT:
            entry.version = target
    return renamed


def _without_newer(model: onnx.ModelProto, target: int) -> onnx.ModelProto:
    """A copy in which each operator that opset `target` lacks is written out as ONNX defines it."""
    version = opset_of(model)
    newer = [
        place for place, node in enumerate(model.graph.node) if node.domain in _DEFAULT and not _known(node, target)
    ]
    if not newer or version < target:
        return model
    made = onnx.ModelProto()
    made.CopyFrom(model)
    kinds = element_types(model)
    for place in newer:
        node = made.graph.node[place]
        if body := _definition(node, version, kinds):
            body.name, body.domain = f"{node.op_type}{place}", _WRITTEN_OUT
            del body.opset_import[:]
            body.opset_import.append(onnx.helper.make_opsetid("", version))
            made.functions.append(body)
            node.attribute.extend(_defaults(node, version))
            node.op_type, node.domain = body.name, _WRITTEN_OUT
    made.opset_import.append(onnx.helper.make_opsetid(_WRITTEN_OUT, 1))
    inlined = inliner.inline_local_functions(made)
    left = [opset for opset in inlined.opset_import if opset.domain != _WRITTEN_OUT]
    del inlined.opset_import[:]
    inlined.opset_import.extend(left)
    return inlined


def _known(node: onnx.NodeProto, version: int) -> bool:
    schema = schema_of(node, version)
    return schema is not None and not schema.deprecated


def _definition(node: onnx.NodeProto, version: int, kinds: Mapping[str, int]) -> onnx.FunctionProto | None:
    """What ONNX defines an operator to be, for these inputs; None where it is not defined by others."""
    schema: Any = schema_of(node, version)  # its stubs lack what is asked below
    if schema is None:
        return None
    body = onnx.FunctionProto()
    if schema.has_function:
        body.CopyFrom(schema.function_body)
        return body
    if not schema.has_context_dependent_function:
        return None
    types = [
        onnx.helper.make_tensor_type_proto(kinds.get(name, onnx.TensorProto.UNDEFINED), None).SerializeToString()
        for name in node.input
    ]
    body.ParseFromString(schema.get_context_dependent_function(node.SerializeToString(), types))
    return body


def _defaults(node: onnx.NodeProto, version: int) -> list[onnx.AttributeProto]:
    """The attributes that a node leaves to their defaults: a definition refers to them."""
    attributes = onnx.defs.get_schema(node.op_type, version).attributes
    given = {attribute.name for attribute in node.attribute}
    return [
        one.default_value for name, one in attributes.items() if name not in given and one.default_value.name == name
    ]


def _signature(model: onnx.ModelProto) -> tuple[tuple[str, int], ...]:
    """Names and element types of the inputs and outputs."""
    values = [*model.graph.input, *model.graph.output]
    return tuple((value.name, value.type.tensor_type.elem_type) for value in values)
