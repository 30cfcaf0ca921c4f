"""A tensor cut into a sequence whose places are read one by one, as exporters write torch's `split` and `chunk`: Split.

Sequences are known neither to quantizers nor to TensorRT.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_graphsurgeon as gs

__all__ = ["split_sequences"]

_STANDARD: Final = (None, "", "ai.onnx")
_LENGTHS_ARE_AN_INPUT: Final = 13
"""Since this opset; before, they are Split's attribute (ONNX operators, Split)."""


def split_sequences(graph: gs.Graph) -> None:
    """Put a Split in the place of each SplitToSequence that SequenceAt alone reads, at constant places, in place."""
    for node in graph.nodes:
        if node.op != "SplitToSequence" or node.domain not in _STANDARD:
            continue
        parts, readers = _parts(node), list(node.outputs[0].outputs)
        places = [_place(reader) for reader in readers]
        if parts is None or any(place is None for place in places) or node.outputs[0] in graph.outputs:
            continue
        stem = node.outputs[0].name
        cut = [gs.Variable(f"{stem}/{index}", node.inputs[0].dtype) for index in range(len(parts))]
        for reader, place in zip(readers, places, strict=True):
            reader.op, reader.attrs, reader.inputs = "Identity", {}, [cut[place or 0]]
        node.op, node.attrs = "Split", {"axis": node.attrs.get("axis", 0)}
        node.inputs, node.outputs = node.inputs[:1], cut
        if graph.opset < _LENGTHS_ARE_AN_INPUT:
            node.attrs["split"] = parts
        else:
            node.inputs.append(gs.Constant(f"{stem}/split", np.array(parts, np.int64)))


def _parts(node: gs.Node) -> list[int] | None:
    """The lengths of the parts; None where they are not known."""
    given = node.inputs[1] if len(node.inputs) > 1 else None
    if not isinstance(given, gs.Constant):
        return None
    lengths = given.values
    if lengths.ndim:
        return [int(length) for length in lengths]
    shape, axis, most = node.inputs[0].shape, int(node.attrs.get("axis", 0)), int(lengths)
    whole = shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None
    if not isinstance(whole, int) or most < 1:
        return None
    return [min(most, whole - start) for start in range(0, whole, most)]


def _place(reader: gs.Node) -> int | None:
    """The constant place that a SequenceAt reads; None for any other reader."""
    if reader.op != "SequenceAt" or not isinstance(reader.inputs[1], gs.Constant):
        return None
    return int(reader.inputs[1].values)
