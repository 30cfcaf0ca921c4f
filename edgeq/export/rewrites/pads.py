"""Padding with zeros in front of convolutions becomes theirs: one node less to run, and in INT8 one tensor less."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

__all__ = ["give_pads_to_convolutions"]

_STANDARD = (None, "", "ai.onnx")
_FIRST_PLACE = 2  # behind batch and channels


def give_pads_to_convolutions(graph: gs.Graph) -> None:
    """Let convolutions read what a Pad reads, in place, where all who read the Pad are convolutions.

    A convolution pads with zeros of its own (ONNX operators, Conv: `pads`), so what is computed is the same.
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


def _pads(node: gs.Node) -> list[int] | None:
    """What a Pad adds in each place, all beginnings first; None where it does something that no convolution does."""
    if node.op != "Pad" or node.domain not in _STANDARD or node.attrs.get("mode", "constant") != "constant":
        return None
    given = _constant(node, 1, node.attrs.get("pads"))
    fill = _constant(node, 2, node.attrs.get("value", 0.0))
    if given is None or fill is None or np.any(fill) or _constant(node, 3, ()) is None:
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
