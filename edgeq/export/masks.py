"""Bring the numbers that mask attention scores into FP16's reach.

A masked score gets the lowest float32, or minus infinity, added before the softmax. FP16 does not hold the first, and
a sum with it overflows. With -10000 instead, e to the power of what the softmax sees is 0 in float32 all the same, as
long as a row has one score that is not masked.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from edgeq.model.graph.tensors import constant_tensors
from edgeq.model.graph.wiring import Wiring, operator

__all__ = ["MASKED", "fold_mask_constants"]

MASKED: Final = -1e4
"""What a masked score gets at the most: FP16 holds the sum of six of them."""

_MOVES: Final = frozenset(
    {"Cast", "Expand", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze"}
)


def fold_mask_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which no constant that only masks attention scores is below -10000.

    A constant masks where all that is made of it, by moving, choosing (Where) and adding, goes into a softmax. What the
    graph computes stays the same to float32's rounding, which `edgeq.export.parity` can prove.

    Args:
        model: FP32, with its weights in memory; it is not changed.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    wiring = Wiring(made)
    for name, tensor in constant_tensors(made.graph).items():
        if tensor.data_type == TensorProto.FLOAT and wiring.readers(name) and _masks(wiring, name):
            values = numpy_helper.to_array(tensor)
            if (values < MASKED).any():
                raised = np.where(values < MASKED, np.float32(MASKED), values)
                tensor.CopyFrom(numpy_helper.from_array(raised, tensor.name))
    return made


def _masks(wiring: Wiring, tensor: str) -> bool:
    """Whether everything that is made of a tensor goes into a softmax, and is added to or chosen from on the way."""
    return not wiring.is_output(tensor) and all(_passes(wiring, node, tensor) for node in wiring.readers(tensor))


def _passes(wiring: Wiring, node: onnx.NodeProto, tensor: str) -> bool:
    op, slots = operator(node), [slot for slot, name in enumerate(node.input) if name == tensor]
    if op == "Softmax":
        return True
    moved = op in _MOVES and slots == [0]
    chosen = op == "Where" and 0 not in slots
    return (moved or chosen or op == "Add") and bool(wiring.readers(node.output[0])) and _masks(wiring, node.output[0])
