"""Integer grids: how a real number becomes eight bits and back (ONNX QuantizeLinear: round half to even, saturate)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Grid",
    "half_scale",
    "quantize_bias",
    "round_weight",
    "signed_grid",
    "unsigned_grid",
    "weight_amax",
    "weight_scale",
]

_EMPTY_SCALE = 1.0
"""Scale of a tensor that was never anything but zero: any positive number stores its zeros exactly."""


@dataclass(frozen=True)
class Grid:
    """A uniform grid: real = scale * (q - zero_point).

    Attributes:
        scale: float32 value, > 0.
        zero_point: the integer that stands for 0.0.
        dtype: `uint8` (0..255) or `int8` (-127..127 in use).
    """

    scale: float
    zero_point: int
    dtype: Literal["uint8", "int8"]


def signed_grid(amax: float) -> Grid:
    """Symmetric INT8, as TensorRT wants it: scale = amax / 127, zero point 0."""
    return Grid(_positive(amax / 127.0), 0, "int8")


def unsigned_grid(low: float, high: float, *, scale: float | None = None) -> Grid:
    """UINT8 over [low, high] (low <= 0 <= high), as ONNX Runtime's fastest kernels want it.

    Args:
        low, high: the range's ends, in the tensor's own values.
        scale: a scale to use instead, at least as wide as (high - low) / 255.
    """
    step = _positive((high - low) / 255.0 if scale is None else scale)
    return Grid(step, int(np.clip(np.rint(-low / step), 0, 255)), "uint8")


def _positive(scale: float) -> float:
    single = float(np.float32(scale))
    return single if single >= float(np.finfo(np.float32).tiny) else _EMPTY_SCALE


def half_scale(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scales, float32 [...], as the nearest FP16 numbers, none below the smallest normal one, 2**-14.

    A TensorRT layer computes beside its Q/DQ pairs in the type of their scales. Below 2**-14 FP16 loses digits, and
    below 2**-25 a scale would become 0, which TensorRT's parser refuses.
    """
    info = np.finfo(np.float16)
    return np.clip(scale, info.smallest_normal, info.max).astype(np.float16).astype(np.float32)


def weight_amax(weight: NDArray[np.float32], axis: int | None) -> NDArray[np.float64]:
    """The largest magnitude of each output channel (`axis`), float64 [channels], or of all (None), float64 []."""
    others = None if axis is None else tuple(i for i in range(weight.ndim) if i != axis)
    amax: NDArray[np.float64] = np.maximum(weight.max(axis=others), -weight.min(axis=others)).astype(np.float64)
    return amax


def weight_scale(amax: NDArray[np.float64], smallest_scale: NDArray[np.float64] | None = None) -> NDArray[np.float32]:
    """Scales of symmetric INT8 weights of these magnitudes, float32 [channels] or [], none below `smallest_scale`."""
    scale = amax / 127.0
    if smallest_scale is not None:
        scale = np.maximum(scale, smallest_scale)
    return np.where(scale >= np.finfo(np.float32).tiny, scale, _EMPTY_SCALE).astype(np.float32)


def round_weight(weight: NDArray[np.float32], axis: int | None, scale: NDArray[np.float32]) -> NDArray[np.int8]:
    """Weights on a symmetric grid, in -127..127.

    Args:
        weight: of any shape.
        axis: of the output channels; None for one scale.
        scale: float32 [channels], or [] without an axis.

    Returns:
        int8 [...], in the weight's shape.
    """
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)] if axis is not None else [1] * weight.ndim
    steps = weight / scale.reshape(shape)
    np.rint(steps, out=steps)
    return np.clip(steps, -127, 127, out=steps).astype(np.int8)


def quantize_bias(bias: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.int32]:
    """A bias as int32 [channels] on the grid of the accumulator, whose scale is the input's times the weight's."""
    limit = 2**31 - 1
    return np.clip(np.rint(bias.astype(np.float64) / scale.astype(np.float64)), -limit, limit).astype(np.int32)
