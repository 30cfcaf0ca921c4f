"""Which layers in FP16 read integers in TensorRT's graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import onnx_graphsurgeon as gs

from edgeq.plan.rules import FUSED_ACTIVATIONS

__all__ = ["integer_inputs"]

_SPATIAL: Final = ((2, 3), (-2, -1), (-1, -2), (3, 2))


def integer_inputs(node: gs.Node) -> Sequence[gs.Variable]:
    """What a layer in FP16 reads through a pair: averages over all pixels, and resizing behind a convolution.

    TensorRT's kernels for them read integers, a quarter or half of the bytes; ModelOpt puts pairs there as well.
    """
    source = node.inputs[0] if node.inputs else None
    if not isinstance(source, gs.Variable) or not source.inputs or source.inputs[0].op == "DequantizeLinear":
        return ()
    if _averages_pixels(node) or (node.op == "Resize" and _from_convolution(source)):
        return (source,)
    return ()


def _averages_pixels(node: gs.Node) -> bool:
    if node.op == "ReduceMean":
        return tuple(node.attrs.get("axes") or _constant(node, 1)) in _SPATIAL
    return bool(node.op == "GlobalAveragePool")


def _constant(node: gs.Node, slot: int) -> Sequence[int]:
    given = node.inputs[slot] if len(node.inputs) > slot else None
    return [int(axis) for axis in given.values.reshape(-1)] if isinstance(given, gs.Constant) else ()


def _from_convolution(tensor: gs.Variable) -> bool:
    maker = tensor.inputs[0]
    while maker.op in FUSED_ACTIVATIONS and maker.inputs[0].inputs:
        maker = maker.inputs[0].inputs[0]
    return bool(maker.op == "Conv")
