"""Families of quantizers: from the values of a tensor and a number of bits to the candidates of a search.

The first candidate is the one that is taken where nothing is searched: it keeps the whole range.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import torch

from benchmarks.simulate.logarithm import DENOMINATOR, AdaLog, Log2, LogSqrt2, Shifted
from benchmarks.simulate.twin import TwinGelu, TwinSoftmax
from benchmarks.simulate.uniform import Quantizer, affine, symmetric
from edgeq.calibrate.thresholds import PERCENTILE

__all__ = [
    "FACTORS",
    "Family",
    "adalog",
    "adalog_shifted",
    "affine_range",
    "channels",
    "log2",
    "logsqrt2",
    "percentile_range",
    "symmetric_range",
    "twin_gelu",
    "twin_softmax",
]

Family = Callable[[torch.Tensor, int], list[Quantizer]]
"""Values, float32 of any shape, and bits to candidates."""

FACTORS: Final = (1.0, *(step / 20 for step in range(2, 25) if step != 20))
"""Parts of the whole range that are tried: 0.1 to 1.2 in steps of 0.05."""

_SPLITS: Final = tuple(2.0**-power for power in range(1, 13))
_NUMERATORS: Final = (DENOMINATOR, *(1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 17, 20, 24, 28, 32, 42, 48, 55))
_LOG_FACTORS: Final = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)


def symmetric_range(values: torch.Tensor, bits: int) -> list[Quantizer]:
    """Signed grids around zero."""
    amax = values.abs().max()
    return [symmetric(factor * amax, bits) for factor in FACTORS]


def percentile_range(values: torch.Tensor, bits: int) -> list[Quantizer]:
    """Signed grids around zero, first that which keeps 99.999 % of the values."""
    amax = torch.tensor(np.percentile(values.abs().numpy(), PERCENTILE), dtype=torch.float32)
    return [symmetric(factor * amax, bits) for factor in FACTORS]


def affine_range(values: torch.Tensor, bits: int) -> list[Quantizer]:
    """Unsigned grids with a zero point: no code is lost on a sign that does not occur."""
    low, high = float(values.min()), float(values.max())
    return [affine(factor * low, factor * high, bits) for factor in FACTORS]


def channels(weight: torch.Tensor, bits: int) -> list[Quantizer]:
    """Signed grids for a weight [out, in], with a step for each output channel."""
    amax = weight.abs().amax(dim=1, keepdim=True)
    return [symmetric(factor * amax, bits) for factor in FACTORS]


def twin_softmax(_values: torch.Tensor, bits: int) -> list[Quantizer]:
    """Twin grids for values in 0..1, split at every power of two from 1/2 to 1/4096."""
    return [TwinSoftmax(split, bits) for split in _SPLITS]


def twin_gelu(values: torch.Tensor, bits: int) -> list[Quantizer]:
    """Twin grids around zero: the negative one keeps its whole range, the positive one is searched."""
    half = 2 ** (bits - 1)
    negative = max(-float(values.min()), 1e-12) / half
    positive = max(float(values.max()), 1e-12) / (half - 0.5)
    return [TwinGelu(negative, factor * positive, bits) for factor in FACTORS]


def log2(values: torch.Tensor, bits: int) -> list[Quantizer]:
    """Powers of 2 below the largest value."""
    return [Log2(factor * _largest(values), bits) for factor in _LOG_FACTORS]


def logsqrt2(values: torch.Tensor, bits: int) -> list[Quantizer]:
    """Powers of the square root of 2 below the largest value."""
    return [LogSqrt2(factor * _largest(values), bits) for factor in _LOG_FACTORS]


def adalog(values: torch.Tensor, bits: int) -> list[Quantizer]:
    """Powers of 2^(q/37), of every base and scale of a grid, base 2 first."""
    return list(_adalogs(_largest(values), bits))


def adalog_shifted(values: torch.Tensor, bits: int) -> list[Quantizer]:
    """The same for values that are shifted to begin at zero."""
    shift = max(-float(values.min()), 0.0)
    return [Shifted(inner, shift) for inner in _adalogs(_largest(values) + shift, bits)]


def _adalogs(scale: float, bits: int) -> list[AdaLog]:
    return [AdaLog(factor * scale, bits, numerator) for numerator in _NUMERATORS for factor in _LOG_FACTORS]


def _largest(values: torch.Tensor) -> float:
    return max(float(values.max()), 1e-12)
