"""What eight bits would cost a tensor, from its histogram: root mean square of the error over that of the values.

A histogram's bin is a value, its centre, times a count. Steps smaller than two bins are not seen by that; rounding to
them costs a twelfth of the step's square.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeq.calibrate.histogram import BINS, Histogram
from edgeq.calibrate.thresholds import asymmetric_range

__all__ = ["centres", "folded_error", "lost_share", "twin_gelu_error", "twin_softmax_error", "uniform_error"]

_STEPS: Final = 255
_TWIN_STEPS: Final = 127  # of seven bits, beside the bit that chooses the grid
_SPLITS: Final = tuple(2.0**-power for power in range(1, 13))


def centres(histogram: Histogram) -> NDArray[np.float64]:
    """The value that each bin stands for, float64 [2 * BINS]."""
    return np.asarray((np.arange(-BINS, BINS) + 0.5) * histogram.width, np.float64)


def uniform_error(histogram: Histogram) -> float:
    """On one unsigned grid over the range with the least squared error."""
    low, high = asymmetric_range(histogram, "mse")
    values = centres(histogram)
    return _relative(histogram, values, _rounding(values, (high - low) / _STEPS, low, high, histogram.width))


def twin_softmax_error(histogram: Histogram) -> float:
    """On twin grids for values in 0..1, with the best of the splits 1/2 .. 1/4096."""
    values = centres(histogram)
    coarse = np.maximum(np.rint(values * _TWIN_STEPS) / _TWIN_STEPS, 0.0)
    errors = []
    for split in _SPLITS:
        fine = _rounding(values, split / _TWIN_STEPS, 0.0, split, histogram.width)
        above = np.square(np.maximum(coarse, split) - values)
        errors.append(_relative(histogram, values, np.where(values <= split, fine, above)))
    return min(errors)


def twin_gelu_error(histogram: Histogram) -> float:
    """On twin grids around zero, each over its half of the range with the least squared error."""
    low, high = asymmetric_range(histogram, "mse")
    values, width = centres(histogram), histogram.width
    below = _rounding(values, -low / (_TWIN_STEPS + 1), low, 0.0, width)
    above = _rounding(values, high / _TWIN_STEPS, 0.0, high, width)
    return _relative(histogram, values, np.where(values < 0.0, below, above))


def folded_error(histogram: Histogram, lowest: NDArray[np.float32], highest: NDArray[np.float32]) -> float:
    """With a grid for each channel over its whole range, as it is when their differences are folded away.

    Args:
        histogram: of the whole tensor.
        lowest, highest: float32 [channels], the ends of each channel's values.
    """
    ranges = np.maximum(highest, 0.0).astype(np.float64) - np.minimum(lowest, 0.0)
    size = _mean_square(histogram, np.square(centres(histogram)))
    return float(np.sqrt(np.mean(np.square(ranges / _STEPS)) / 12.0 / size)) if size else 0.0


def lost_share(histogram: Histogram) -> tuple[float, float]:
    """Of values that are never negative: the part of them that one grid of 255 steps makes zero, and of their sum."""
    values, counts = centres(histogram), histogram.counts
    small = np.abs(values) < histogram.maximum / (2 * _STEPS)
    total = float(counts @ values)
    return float(counts[small].sum() / counts.sum()), float(counts[small] @ values[small]) / total if total else 0.0


def _rounding(values: NDArray[np.float64], step: float, low: float, high: float, width: float) -> NDArray[np.float64]:
    """The squared error of each value on a grid of `step` that has zero and ends at `low` and `high`."""
    kept = np.clip(values, low, high)
    clipped = np.square(values - kept)
    if step <= 2 * width:
        return clipped + step**2 / 12.0
    return np.square(np.clip(np.rint(kept / step) * step, low, high) - values)


def _relative(histogram: Histogram, values: NDArray[np.float64], squares: NDArray[np.float64]) -> float:
    size = _mean_square(histogram, np.square(values))
    return float(np.sqrt(_mean_square(histogram, squares) / size)) if size else 0.0


def _mean_square(histogram: Histogram, squares: NDArray[np.float64]) -> float:
    return float(histogram.counts @ squares) / max(histogram.total, 1)
