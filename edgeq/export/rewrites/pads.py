"""Padding with zeros: in front of convolutions it becomes theirs, in front of MaxPool it must stay what it is."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

__all__ = ["give_pads_to_convolutions", "keep_pads_before_pools"]

_STANDARD = (None, "", "ai.onnx")
_FIRST_PLACE = 2  # behind batch and channels


def keep_pads_before_pools(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with -0.0 in the place of 0 where a Pad stands in front of a MaxPool, which computes the same.

    ONNX Runtime (1.31 and before: `Pad_Fusion`) would give the zeros to the MaxPool, whose own padding counts as minus
    infinity, so that numbers below 0 win at the edge. It leaves a Pad with -0.0 alone.

    Args:
        model: is not changed.
    """
    pools = {node.input[0] for node in model.graph.node if node.op_type == "MaxPool"}
    if not any(node.op_type == "Pad" and node.output[0] in pools for node in model.graph.node):
        return model
    graph = gs.import_onnx(model)
    for node in graph.nodes:
        if node.op == "Pad" and node.outputs[0].name in pools and _adds_zeros(node):
            if len(node.inputs) == 1:  # before opset 11
                node.attrs["value"] = -0.0
                continue
            fill = gs.Constant(f"{node.outputs[0].name}.fill", np.array(-0.0, node.inputs[0].dtype or np.float32))
            node.inputs = [*node.inputs[:2], fill, *node.inputs[3:]]
    kept: onnx.ModelProto = gs.export_onnx(graph, do_type_check=False)
    kept.ir_version = model.ir_version
    return kept


def give_pads_to_convolutions(graph: gs.Graph) -> None:
    """Let convolutions read what a Pad reads, in place, where all who read the Pad are convolutions.

    One node less is run, and in INT8 there is one tensor less. A convolution pads with zeros of its own (ONNX
    operators, Conv: `pads`), so what is computed is the same.
    """
    for node in graph.nodes:
        pads = _pads(node)
        if pads is None or any(node.outputs[0] is output for output in graph.outputs):
            continue
        readers = list(node.outputs[0].outputs)
        if readers and all(_takes_pads(reader, node.outputs[0], pads) for reader in readers):
            for reader in readers:
                own = reader.attrs.get("pads") or [0] * len(pads)
                reader.attrs["pads"] = [mine + more for mine, more in zip(own, pads, strict=True)]
                reader.inputs[0] = node.inputs[0]


def _adds_zeros(node: gs.Node) -> bool:
    fill = _constant(node, 2, node.attrs.get("value", 0.0))
    constant = node.domain in _STANDARD and node.attrs.get("mode", "constant") == "constant"
    return constant and fill is not None and not np.any(fill)


def _pads(node: gs.Node) -> list[int] | None:
    """What a Pad adds in each place, all beginnings first; None where it does something that no convolution does."""
    if node.op != "Pad" or not _adds_zeros(node):
        return None
    given = _constant(node, 1, node.attrs.get("pads"))
    if given is None or _constant(node, 3, ()) is None:
        return None
    whole = _all_axes(node, given)
    if whole is None:
        return None
    before, after = np.split(whole, 2)
    if len(before) <= _FIRST_PLACE or min(*before, *after) < 0 or np.any([before[:_FIRST_PLACE], after[:_FIRST_PLACE]]):
        return None
    return [int(count) for count in (*before[_FIRST_PLACE:], *after[_FIRST_PLACE:])]


def _all_axes(node: gs.Node, pads: np.ndarray) -> np.ndarray | None:
    """The same for every axis, where the node names some (since opset 18); None where their number is not known."""
    axes = _constant(node, 3, ())
    if axes is None or not axes.size:
        return pads
    if node.inputs[0].shape is None:
        return None
    whole = np.zeros((2, len(node.inputs[0].shape)), np.int64)
    whole[:, axes] = np.split(pads, 2)
    return whole.reshape(-1)


def _constant(node: gs.Node, place: int, otherwise: object) -> np.ndarray | None:
    """An input's numbers, or those that hold where it is left out; None where it is no constant."""
    if len(node.inputs) <= place or node.inputs[place].is_empty():
        return None if otherwise is None else np.asarray(otherwise)
    value = node.inputs[place]
    if value.inputs and value.inputs[0].op == "Constant":  # as exporters write it
        value = value.inputs[0].attrs.get("value")
    return value.values if isinstance(value, gs.Constant) else None


def _takes_pads(reader: gs.Node, padded: gs.Tensor, pads: list[int]) -> bool:
    """Whether a node is a convolution over as many places, and reads what was padded as its image alone."""
    own = reader.attrs.get("pads") or pads
    return (
        reader.op == "Conv"
        and reader.domain in _STANDARD
        and reader.attrs.get("auto_pad", "NOTSET") == "NOTSET"
        and len(own) == len(pads)
        and [place for place, value in enumerate(reader.inputs) if value is padded] == [0]
    )
