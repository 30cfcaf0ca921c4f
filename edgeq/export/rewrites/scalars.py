"""Constants of one element where an operator is defined on a scalar: ONNX Runtime takes [1] for [], others do not."""

from __future__ import annotations

from typing import Final

import onnx_graphsurgeon as gs

__all__ = ["make_scalars"]

_STANDARD: Final = (None, "", "ai.onnx")
_SCALARS: Final = {"Clip": (1, 2), "Dropout": (1, 2), "Pad": (2,)}
"""By operator, the inputs that ONNX defines as scalars (ONNX operators, opset 18)."""


def make_scalars(graph: gs.Graph) -> None:
    """Give each such input of one element the shape [], in place."""
    for node in graph.nodes:
        if node.domain not in _STANDARD:
            continue
        for place in _SCALARS.get(node.op, ()):
            value = node.inputs[place] if len(node.inputs) > place else None
            if isinstance(value, gs.Constant) and value.values.size == 1 and value.values.ndim:
                node.inputs[place] = gs.Constant(f"{node.outputs[0].name}/scalar{place}", value.values.reshape(()))
