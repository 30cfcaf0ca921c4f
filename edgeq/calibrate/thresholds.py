"""From a histogram to the range that is kept: pure functions, one for a method.

A range is (low, high) with low <= 0 <= high: values outside it are clipped to it. `symmetric_amax` gives the one number
that a signed symmetric grid needs (TensorRT), `asymmetric_range` the two that an unsigned one needs (ONNX Runtime).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeq.calibrate.histogram import BINS, Histogram

__all__ = ["METHODS", "PERCENTILE", "asymmetric_range", "symmetric_amax"]

PERCENTILE: Final = 99.999
"""Share of the values, in percent, that `percentile` keeps."""

_SHRINKS: Final = np.linspace(0.3, 1.0, 141)
"""The ranges that `mse` tries, as parts of the full range."""

_ENTROPY_CANDIDATES: Final = 64
"""How many clipping points `entropy` tries."""

Amax = Callable[[Histogram, int], float]


def _minmax(histogram: Histogram, _levels: int) -> float:
    return max(-histogram.minimum, histogram.maximum, 0.0)


def _percentile(histogram: Histogram, _levels: int) -> float:
    counts = histogram.magnitudes
    kept = int(np.searchsorted(np.cumsum(counts), histogram.total * PERCENTILE / 100.0)) + 1
    return min(kept * histogram.width, _minmax(histogram, 0))


def _mse(histogram: Histogram, levels: int) -> float:
    amax = _minmax(histogram, levels)
    counts = histogram.magnitudes
    filled = np.flatnonzero(counts)
    centres, counts = (filled.astype(np.float64) + 0.5) * histogram.width, counts[filled]
    errors = [_squared_error(counts, centres, float(amax * shrink), levels) for shrink in _SHRINKS]
    return float(amax * _SHRINKS[int(np.argmin(errors))])


def _entropy(histogram: Histogram, levels: int) -> float:
    """The amax whose quantized distribution is nearest to the clipped one, by Kullback-Leibler divergence.

    The search that NVIDIA describes for TensorRT (S. Migacz, "8-bit inference with TensorRT", GTC 2017), with the bin
    of zeros left out: behind a ReLU it holds half of all values, is stored exactly, and would decide everything.
    """
    counts = histogram.magnitudes.astype(np.float64)
    counts[0] = 0.0
    used = int(np.max(np.flatnonzero(counts), initial=0)) + 1
    if used <= levels + 1:
        return _minmax(histogram, levels)
    candidates = np.unique(np.linspace(levels + 1, used, _ENTROPY_CANDIDATES).astype(int))
    divergences = [_divergence(counts[:used], int(kept), levels + 1) for kept in candidates]
    widest = len(candidates) - 1 - int(np.argmin(divergences[::-1]))  # of equals, the one that clips least
    return min(float(candidates[widest]) * histogram.width, _minmax(histogram, levels))


def _divergence(counts: NDArray[np.float64], kept: int, levels: int) -> float:
    """KL(clipped to `kept` bins || the same in `levels` levels, each spread over its bins that are not empty)."""
    inside = counts[:kept]
    clipped = inside.copy()
    clipped[-1] += counts[kept:].sum()
    occupied = inside > 0.0
    starts = -(-np.arange(levels) * kept // levels)  # bin i lies in level i * levels // kept
    mass, bins = np.add.reduceat(inside, starts), np.add.reduceat(occupied, starts, dtype=np.float64)
    spread = np.where(occupied, np.repeat(mass / np.maximum(bins, 1.0), np.diff(starts, append=kept)), 0.0)
    if not occupied.any() or (clipped[-1] > 0.0 and not occupied[-1]):
        return np.inf  # a bin that holds nothing but outliers has no counterpart
    total, held = clipped.sum(), spread.sum()
    ratio = clipped[occupied] / spread[occupied]
    return float(np.sum(clipped[occupied] * np.log(ratio)) / total + np.log(held / total))


def _squared_error(counts: NDArray[np.int64], centres: NDArray[np.float64], amax: float, levels: int) -> float:
    """Sum of squared errors when [0, amax] is rounded to `levels` steps and the rest is clipped."""
    step = amax / levels
    error = centres - np.minimum(np.rint(centres / step), levels) * step
    return float(np.dot(counts, error * error))


METHODS: Final[dict[str, Amax]] = {"minmax": _minmax, "percentile": _percentile, "mse": _mse, "entropy": _entropy}
"""Method name -> the largest magnitude kept, given the number of steps that lie between zero and it."""


def symmetric_amax(histogram: Histogram, method: str) -> float:
    """Largest magnitude kept by a signed grid of 127 steps on each side of zero; 0.0 where all values are zero."""
    return 0.0 if histogram.exponent is None else METHODS[method](histogram, 127)


def asymmetric_range(histogram: Histogram, method: str) -> tuple[float, float]:
    """(low, high) kept by an unsigned grid of 255 steps; low is 0.0 where no value is negative.

    Each side of zero is treated alone, with the share of the steps that it gets in the full range.
    """
    low, high = min(histogram.minimum, 0.0), max(histogram.maximum, 0.0)
    if histogram.exponent is None:
        return 0.0, 0.0
    span = high - low
    return -_side(histogram, method, -1, -low / span), _side(histogram, method, 1, high / span)


def _side(histogram: Histogram, method: str, sign: int, share: float) -> float:
    """Largest magnitude kept on one side of zero, which gets `share` of the 255 steps."""
    if share == 0.0:
        return 0.0
    return METHODS[method](_one_side(histogram, sign), max(1, round(255 * share)))


def _one_side(histogram: Histogram, sign: int) -> Histogram:
    """The magnitudes of the values of one sign, as a histogram of its own."""
    side = Histogram()
    side.exponent = histogram.exponent
    side.counts[BINS:] = histogram.counts[BINS:] if sign > 0 else histogram.counts[:BINS][::-1]
    side.minimum, side.maximum = 0.0, max(sign * histogram.maximum, sign * histogram.minimum, 0.0)
    return side
