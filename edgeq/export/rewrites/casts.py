"""CastLike as a Cast: only the type of what it is like matters, so a constant behind it can be computed."""

from __future__ import annotations

from typing import Final

import onnx
import onnx_graphsurgeon as gs

__all__ = ["settle_casts"]

_STANDARD: Final = (None, "", "ai.onnx")


def settle_casts(graph: gs.Graph) -> None:
    """Put a Cast in the place of each CastLike whose type is known, in place."""
    for node in graph.nodes:
        if node.op != "CastLike" or node.domain not in _STANDARD:
            continue
        kind = node.inputs[1].dtype
        if kind is None:
            continue
        node.op, node.attrs = "Cast", {"to": _element_type(kind)}
        node.inputs = [node.inputs[0]]


def _element_type(kind: object) -> int:
    """ONNX's number of a type, which graphsurgeon gives as NumPy's or, where NumPy has none, as ONNX's own."""
    return kind if isinstance(kind, int) else int(onnx.helper.np_dtype_to_tensor_dtype(kind))
