"""The peaks of a histogram: where values crowd, with emptier places between."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from edgeq.calibrate.histogram import Histogram
from edgeq.quantize.distributions.rounding import centres

__all__ = ["Peak", "binned", "find_peaks"]

_BINS: Final = 64
_NEGATIVE_BINS: Final = 8
_MOST_BINS: Final = 512
_VALLEY: Final = 0.5
"""Between two peaks there are at most so many times the values that are at the lower one."""
_LEAST: Final = 5e-5
"""Share of all values in a bin below which there is no peak."""
_FEWEST: Final = 20
"""The same as a number of values that were counted."""


class Peak(BaseModel):
    """One peak.

    Attributes:
        position: the value at its top.
        share: of all values, those between the valleys on its two sides.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    position: float
    share: float


def binned(histogram: Histogram) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The shares of all values in wider bins, float64 [n], and the bins' edges [n + 1], zero among them.

    There are 64 bins, and more where the negative values would get fewer than eight of them.
    """
    low, high = min(histogram.minimum, 0.0), max(histogram.maximum, 0.0)
    span = high - low
    if span <= 0.0:
        return np.ones(1), np.array([0.0, 1.0])
    width = span / _BINS
    if low < 0.0 < high:
        width = max(min(width, -low / _NEGATIVE_BINS), span / _MOST_BINS)
    width = max(width, histogram.width)
    places = np.floor(centres(histogram) / width).astype(np.intp)
    first, last = int(np.floor(low / width)), int(np.floor(high / width))
    inside = (places >= first) & (places <= last)
    counts = np.bincount(places[inside] - first, weights=histogram.counts[inside], minlength=last - first + 1)
    return counts / max(histogram.total, 1), np.asarray(np.arange(first, last + 2) * width, np.float64)


def find_peaks(histogram: Histogram) -> tuple[Peak, ...]:
    """The peaks, from the left to the right."""
    shares, edges = binned(histogram)
    smooth = np.convolve(np.pad(shares, 1, mode="edge"), (0.25, 0.5, 0.25), mode="valid")
    tops, valleys = _tops_and_valleys(smooth, max(_LEAST, _FEWEST / max(histogram.total, 2 * _FEWEST)))
    return tuple(
        Peak(position=float(edges[top] + edges[top + 1]) / 2, share=float(shares[begin:end].sum()))
        for top, begin, end in zip(tops, [0, *valleys], [*valleys, len(shares)], strict=True)
    )


def _tops_and_valleys(heights: NDArray[np.float64], least: float) -> tuple[list[int], list[int]]:
    """Places of the peaks, and of the deepest point between each two of them.

    From a top the values must fall to half before a rise counts, and from there rise to twice before it is a new top,
    and above `least`.
    """
    tops: list[int] = []
    valleys: list[int] = []
    deepest, rising = -1, False  # before the first bin lies nothing
    for place, height in enumerate(heights):
        if rising and height >= heights[tops[-1]]:
            tops[-1] = place
        elif rising and height < _VALLEY * heights[tops[-1]]:
            deepest, rising = place, False
        elif not rising and height > max(heights[deepest] / _VALLEY if deepest >= 0 else 0.0, least):
            valleys += [deepest] if tops else []
            tops.append(place)
            rising = True
        elif not rising and deepest >= 0 and height <= heights[deepest]:
            deepest = place
    return tops, valleys
