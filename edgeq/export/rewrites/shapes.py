"""Shape with `start` and `end` (ONNX operators, Shape, since opset 15): written as a Slice of the whole shape.

onnx-graphsurgeon 0.6.1 computes constants as if a Shape gave every axis, and does not read the two attributes.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_graphsurgeon as gs

__all__ = ["slice_shapes"]

_STANDARD: Final = (None, "", "ai.onnx")
_END: Final = np.iinfo(np.int64).max


def slice_shapes(graph: gs.Graph) -> None:
    """Give each Shape all axes, in place, with a Slice behind it that takes those that were asked for."""
    for node in list(graph.nodes):
        if node.op != "Shape" or node.domain not in _STANDARD or not node.attrs.keys() & {"start", "end"}:
            continue
        start, end = node.attrs.pop("start", 0), node.attrs.pop("end", _END)
        if (start, end) == (0, _END):
            continue
        result = node.outputs[0]
        whole = gs.Variable(f"{result.name}/whole", np.int64)
        node.outputs = [whole]
        places = {"start": start, "end": end, "axis": 0}
        given = [gs.Constant(f"{result.name}/{name}", np.array([place], np.int64)) for name, place in places.items()]
        sliced = gs.Node("Slice", f"{result.name}/slice", inputs=[whole, *given], outputs=[result])
        graph.nodes.insert(graph.nodes.index(node) + 1, sliced)
