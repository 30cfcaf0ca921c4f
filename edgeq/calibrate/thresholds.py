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
    """The amax with the least sum of squared errors when values are rounded to `levels` steps, and clipped beyond.

    A value of x bins' widths costs (x - l s)^2 at level l of a step s. Summed over a histogram that is a constant, s^2
    times the sum of l^2, and -2 s times the sum of l x; sums over levels follow from running sums at their edges.
    """
    amax = _minmax(histogram, levels)
    counts = histogram.magnitudes
    number, length = _running(counts), _running(counts * (np.arange(BINS) + 0.5))
    steps = _SHRINKS * (amax / histogram.width / levels)
    level = np.arange(levels)
    edges = np.ceil((level + 0.5) * steps[:, None] - 0.5).clip(0, BINS).astype(np.intp)  # of the bins' centres
    squares = levels**2 * number[-1] - number[edges] @ (2.0 * level + 1.0)
    products = levels * length[-1] - length[edges].sum(axis=1)
    return float(amax * _SHRINKS[int(np.argmin(steps * (steps * squares - 2.0 * products)))])


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
    divergences = _divergences(counts[:used], candidates, levels + 1)
    widest = len(candidates) - 1 - int(np.argmin(divergences[::-1]))  # of equals, the one that clips least
    return min(float(candidates[widest]) * histogram.width, _minmax(histogram, levels))


def _divergences(counts: NDArray[np.float64], kept: NDArray[np.int64], levels: int) -> NDArray[np.float64]:
    """KL(clipped to `kept` bins || the same in `levels` levels, each spread over its bins that are not empty).

    Of p = clipped and q = spread only p log p and, level by level, the sum of p times log q are needed; q is one number
    over a level. What is clipped is in the last bin kept.

    Args:
        counts: of all bins, up to the last that is not empty.
        kept: candidates, int [n].
        levels: into which they are divided; bin i is in level i * levels // kept.

    Returns:
        float64 [n]; infinite where a bin holds nothing but outliers and has no counterpart.
    """
    edges = -(-np.arange(levels + 1) * kept[:, None] // levels)
    mass = np.diff(_running(counts)[edges], axis=1)
    bins = np.diff(_running(counts > 0.0)[edges], axis=1)
    spread = mass / np.maximum(bins, 1.0)
    last, held, total = counts[kept - 1], mass.sum(axis=1), counts.sum()
    outliers = total - held
    entropy = _running(_times_log(counts))[kept] - _times_log(last) + _times_log(last + outliers)
    cross = (mass * _log(spread)).sum(axis=1) + outliers * _log(spread[:, -1])
    divergences: NDArray[np.float64] = (entropy - cross) / total + _log(held / total)
    divergences[(held == 0.0) | ((last == 0.0) & (outliers > 0.0))] = np.inf
    return divergences


def _running(values: NDArray[np.generic]) -> NDArray[np.float64]:
    """Sums of the first 0, 1, ... n values, float64 [n + 1]."""
    return np.concatenate(([0.0], np.cumsum(values, dtype=np.float64)))


def _log(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The logarithm, and 0 of 0: what it is multiplied with is 0, too."""
    return np.log(values, out=np.zeros_like(values), where=values > 0.0)


def _times_log(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """x log x, which is 0 at 0."""
    return values * _log(values)


METHODS: Final[dict[str, Amax]] = {"minmax": _minmax, "percentile": _percentile, "mse": _mse, "entropy": _entropy}
"""Method name -> the largest magnitude kept, given the number of steps that are between zero and it."""


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
