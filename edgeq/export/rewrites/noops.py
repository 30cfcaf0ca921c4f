"""Nodes that give back what they were given, and how to take them out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

__all__ = ["bypass_noops", "is_noop"]


def is_noop(node: gs.Node) -> bool:
    """Whether the first output of `node` always equals its first input; false where that cannot be proved."""
    rule = _RULES.get(node.op)
    return rule is not None and node.domain in (None, "", "ai.onnx") and bool(node.inputs) and rule(node)


def bypass_noops(graph: gs.Graph) -> None:
    """Let the readers of each no-op read its input instead, in place; `graph.cleanup()` then drops the no-op.

    A no-op that joins a graph input, or a constant, to a graph output stays: both names must exist.
    """
    for node in graph.nodes:
        _join_transposes(node)
        if is_noop(node):
            _bypass(graph, node)


def _join_transposes(node: gs.Node) -> None:
    """Let a Transpose behind another one read what that reads, in the order that both make."""
    before = node.inputs[0].inputs[0] if node.op == "Transpose" and node.inputs and node.inputs[0].inputs else None
    if before is None or before.op != "Transpose" or not (before.attrs.get("perm") and node.attrs.get("perm")):
        return
    node.attrs["perm"] = [before.attrs["perm"][place] for place in node.attrs["perm"]]
    node.inputs[0] = before.inputs[0]


def _bypass(graph: gs.Graph, node: gs.Node) -> None:
    source, result = node.inputs[0], node.outputs[0]
    if not _among(result, graph.outputs):
        _redirect(result, source)
    elif source.inputs and not _among(source, graph.outputs):
        producer = source.inputs[0]
        place = next(index for index, tensor in enumerate(producer.outputs) if tensor is source)
        node.outputs.clear()
        producer.outputs[place] = result
        _redirect(source, result)


def _redirect(old: gs.Tensor, new: gs.Tensor) -> None:
    for reader in list(old.outputs):
        for place, tensor in enumerate(reader.inputs):
            if tensor is old:
                reader.inputs[place] = new


def _among(tensor: gs.Tensor, tensors: list[gs.Tensor]) -> bool:
    return any(tensor is other for other in tensors)


def _always(_: gs.Node) -> bool:
    return True


def _idle_dropout(node: gs.Node) -> bool:
    """Dropout drops only where training_mode (input 2, since opset 12) is true, and its mask must be unread."""
    mask_read = len(node.outputs) > 1 and bool(node.outputs[1].outputs)
    if len(node.inputs) < 3 or node.inputs[2].is_empty():
        return not mask_read
    training = node.inputs[2]
    return isinstance(training, gs.Constant) and not training.values.any() and not mask_read


def _same_type(node: gs.Node) -> bool:
    source, result = node.inputs[0].dtype, node.outputs[0].dtype
    return source is not None and source == result


def _no_padding(node: gs.Node) -> bool:
    pads = node.attrs.get("pads")
    if pads is None and len(node.inputs) > 1 and isinstance(node.inputs[1], gs.Constant):
        pads = node.inputs[1].values
    return pads is not None and not np.any(pads)


def _same_order(node: gs.Node) -> bool:
    order = node.attrs.get("perm")
    return order is not None and list(order) == list(range(len(order)))


def _single_input(node: gs.Node) -> bool:
    return len(node.inputs) == 1


_RULES: dict[str, Callable[[gs.Node], bool]] = {
    "Identity": _always,
    "Dropout": _idle_dropout,
    "Cast": _same_type,
    "Pad": _no_padding,
    "Transpose": _same_order,
    "Concat": _single_input,
    "Sum": _single_input,
}
