"""Mul, Add, Sub and Div by one constant for each channel: what exporters make of a BatchNorm, and of a bias.

tf2onnx writes a BatchNorm as Mul and Add, others as Sub, Div, Mul and Add; Paddle and Keras write the bias of a
convolution as an Add of its own. Each of them is y = scale * x + shift along axis 1, as a BatchNorm is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.export.batchnorm import Affine
from edgeq.model.graph.wiring import Wiring, operator

__all__ = ["read_channel_affine"]

_OPERATORS = frozenset({"Add", "Sub", "Mul", "Div"})


def read_channel_affine(wiring: Wiring, node: onnx.NodeProto) -> Affine | None:
    """The map that a node applies to each channel of what it reads first or second.

    Args:
        wiring: of the graph.
        node: any.

    Returns:
        With one pair of figures for each channel, or one pair where the constant is a single number. None where `node`
        does something else: two computed inputs, a constant that differs along another axis, a number divided by what
        is computed, a constant that is not finite. The Add behind a MatMul is that layer's bias, and is none.
    """
    if operator(node) not in _OPERATORS or len(node.input) != 2:
        return None
    constants = [wiring.constant(name) for name in node.input]
    place = next((place for place, value in enumerate(constants) if value is not None), None)
    if place is None or constants[1 - place] is not None or _is_bias(wiring, node, node.input[1 - place]):
        return None
    if operator(node) == "Div" and place == 0:
        return None
    channels = _by_channel(constants[place], wiring.rank(node.input[1 - place]))
    return None if channels is None else _affine(operator(node), channels, constant_first=place == 0)


def _is_bias(wiring: Wiring, node: onnx.NodeProto, data: str) -> bool:
    producer = wiring.producer(data)
    return operator(node) == "Add" and producer is not None and operator(producer) == "MatMul"


def _by_channel(constant: NDArray[Any] | None, rank: int | None) -> NDArray[np.float64] | None:
    """The constant as float64 [channels] or [1], where it varies along axis 1 of a tensor of `rank` axes alone."""
    if constant is None or constant.dtype not in (np.float16, np.float32, np.float64):
        return None
    if not np.isfinite(constant).all() or rank is None or rank < 2 or constant.ndim > rank:
        return None
    shape = (1,) * (rank - constant.ndim) + constant.shape
    if any(length != 1 for axis, length in enumerate(shape) if axis != 1):
        return None
    return constant.astype(np.float64).reshape(-1)


def _affine(kind: str, constant: NDArray[np.float64], *, constant_first: bool) -> Affine | None:
    one, zero = np.ones_like(constant), np.zeros_like(constant)
    if kind == "Add":
        return Affine(one, constant)
    if kind == "Sub":
        return Affine(-one, constant) if constant_first else Affine(one, -constant)
    if kind == "Mul":
        return Affine(constant, zero)
    return Affine(1 / constant, zero) if constant.all() else None
