"""Reshape to a shape that was computed from the batch size: write it as a constant with one -1."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

__all__ = ["settle_reshapes"]


def settle_reshapes(graph: gs.Graph) -> None:
    """Give each Reshape whose output has exactly one unknown axis a constant shape, in place.

    `x.reshape(x.shape[0], 8, -1)` exports as Shape, Gather, Concat, Reshape. Where inference knows every axis of the
    result but one, the constant [-1, 8, 49] says the same, and the chain before it is dead code.
    """
    for node in graph.nodes:
        if node.op == "Reshape" and len(node.inputs) == 2 and not isinstance(node.inputs[1], gs.Constant):
            shape = _one_unknown(node.outputs[0].shape)
            if shape is not None:
                node.inputs[1] = gs.Constant(f"{node.outputs[0].name}/shape", np.array(shape, dtype=np.int64))


def _one_unknown(shape: list[int | str | None] | None) -> list[int] | None:
    """The shape with -1 for its one unknown axis; None where zero or several are unknown."""
    known = [axis if isinstance(axis, int) and axis > 0 else -1 for axis in shape or ()]
    return known if known.count(-1) == 1 else None
