"""Give a graph the outputs that were chosen: the answers first, one number for each class, in types that engines give.

Nothing more is computed than what `Form` says: a vector without axes of length 1, and two classes from one number,
which are exact. `as_chosen` does the same to what the file as it came gave, which the graph is then held against.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeq.model.graph.answers import Chosen, Form, Outputs
from edgeq.model.graph.wiring import subgraphs

__all__ = ["as_chosen", "finish_outputs", "select_outputs"]

_CLASSES_AXIS: Final = 1
_TYPES: Final = {"float": TensorProto.FLOAT, "int64": TensorProto.INT64}
"""What engines give: other floating point becomes the first, other integers the second."""


def select_outputs(model: onnx.ModelProto, outputs: Outputs) -> onnx.ModelProto:
    """A copy whose graph gives the tensors that were chosen, as they are, in that order."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    given = {value.name: value for value in model.graph.output}
    values = [given.get(each.output.name) or _described(each) for each in outputs.chosen]
    del made.graph.output[:]
    made.graph.output.extend(values)
    return made


def _described(chosen: Chosen) -> onnx.ValueInfoProto:
    """What stands for a tensor that was no output: the first axis is the batch."""
    output = chosen.output
    axes = None if output.shape is None else ["batch", *output.shape[1:]]
    return helper.make_tensor_value_info(output.name, TensorProto.DataType.Value(output.kind.upper()), axes)


def finish_outputs(model: onnx.ModelProto, outputs: Outputs) -> onnx.ModelProto:
    """A copy whose outputs have the forms that were chosen, under their names.

    Args:
        model: from `select_outputs`, folded; every node named.
        outputs: the choice.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for value, each in zip(made.graph.output, outputs.chosen, strict=True):
        kind = _TYPES["float" if each.output.is_float else "int64"]
        if each.form != "as it is" or value.type.tensor_type.elem_type != kind:
            _append(made, value, each, kind)
    return made


def _append(model: onnx.ModelProto, value: onnx.ValueInfoProto, chosen: Chosen, kind: int) -> None:
    """Put nodes behind one output, which keeps its name; who else read it reads what it was."""
    graph, name = model.graph, value.name
    raw = _unused(graph, f"{name}/raw")
    _rename(graph, name, raw)
    if value.type.tensor_type.elem_type != kind:
        graph.node.append(_node(graph, "Cast", [raw], f"{name}/typed", to=kind))
        raw = graph.node[-1].output[0]
        value.type.tensor_type.elem_type = kind
    nodes = list(_formed(graph, chosen.form, raw, name))
    graph.node.extend(nodes)
    last = graph.node[-1]
    last.output[0] = name
    if chosen.form != "as it is":
        kept = value.type.tensor_type.shape.dim[0] if value.type.tensor_type.shape.dim else None
        batch = kept.dim_param if kept is not None and kept.dim_param else "batch"
        value.CopyFrom(helper.make_tensor_value_info(name, kind, [batch, chosen.numbers]))


def _rename(graph: onnx.GraphProto, name: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for place, other in enumerate(names):
                if other == name:
                    names[place] = new
        for inner in subgraphs(node):
            _rename(inner, name, new)


def _formed(graph: onnx.GraphProto, form: Form, raw: str, name: str) -> Iterator[onnx.NodeProto]:
    """The nodes from an output as it was to what it becomes; the last one's output is still to be named."""
    if form == "as it is":
        return
    flat = _node(graph, "Flatten", [raw], f"{name}/flat", axis=_CLASSES_AXIS)
    yield flat
    if form == "vector":
        return
    (one,) = flat.output
    if form == "probability":
        whole = numpy_helper.from_array(np.array(1, np.float32), _unused(graph, f"{name}/one"))
        graph.initializer.append(whole)
        other = _node(graph, "Sub", [whole.name, one], f"{name}/other")
    else:
        other = _node(graph, "Sub", [one, one], f"{name}/other")
    yield other
    yield _node(graph, "Concat", [other.output[0], one], f"{name}/classes", axis=_CLASSES_AXIS)


def _node(graph: onnx.GraphProto, op: str, inputs: list[str], name: str, **attributes: Any) -> onnx.NodeProto:
    free = _unused(graph, name)
    return helper.make_node(op, inputs, [free], name=free, **attributes)


def _unused(graph: onnx.GraphProto, name: str) -> str:
    taken = {node.name for node in graph.node} | {tensor.name for tensor in graph.initializer}
    taken |= {tensor for node in graph.node for tensor in (*node.input, *node.output)}
    names = (name, *(f"{name}_{number}" for number in range(1, len(taken) + 2)))
    return next(each for each in names if each not in taken)


def as_chosen(values: tuple[NDArray[Any], ...], outputs: Outputs) -> tuple[NDArray[Any], ...]:
    """What `select_outputs` gave, [images, ...] each, in the forms that were chosen and in the same dtype."""
    return tuple(_as(value, each.form) for value, each in zip(values, outputs.chosen, strict=True))


def _as(value: NDArray[Any], form: Form) -> NDArray[Any]:
    if form == "as it is":
        return value
    flat = value.reshape(len(value), -1)
    if form == "vector":
        return flat
    return np.concatenate([1.0 - flat if form == "probability" else flat - flat, flat], axis=_CLASSES_AXIS)
