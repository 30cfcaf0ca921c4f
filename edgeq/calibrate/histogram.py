"""A histogram with a fixed number of bins whose range grows by doubling.

The range is always a power of two and a bin's index is an exact floor, so that growing (merging bins in pairs) gives
the very counts that the wider range would have given from the start. That is what makes the result independent of the
order of the images and of the batch size, to the bit, and what lets two halves be merged.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import CalibrationError

__all__ = ["BINS", "MAX_COUNTED", "Histogram"]

BINS = 4096
"""Bins on each side of zero. The range is below twice the largest |x|, so more than half of them are in use."""

MAX_COUNTED = 16_384
"""Of a larger tensor every k-th value is counted, k prime and no divisor of its size; the extremes are those of all."""

_COUNTED = 8_192
"""How many values of a larger tensor are counted, at the most."""


_INFINITY = np.float32(np.inf).view(np.uint32)


class Histogram:
    """Counts of one tensor's values over [-limit, limit), with the exact minimum and maximum of all of them.

    Attributes:
        counts: int64 [2 * BINS]; bin i covers [(i - BINS) * width, (i - BINS + 1) * width).
        exponent: limit = 2 ** exponent; None while nothing but zeros was seen.
        minimum, maximum: of all values seen; 0.0 before the first.
    """

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(2 * BINS, np.int64)
        self.exponent: int | None = None
        self.minimum = math.inf
        self.maximum = -math.inf

    @property
    def total(self) -> int:
        """How many values were seen."""
        return int(self.counts.sum())

    @property
    def width(self) -> float:
        """Width of a bin; 0.0 while nothing but zeros was seen."""
        return 0.0 if self.exponent is None else math.ldexp(1.0, self.exponent) / BINS

    @property
    def magnitudes(self) -> NDArray[np.int64]:
        """Counts of |x|, int64 [BINS]: bin i covers [i, i + 1] * width."""
        return self.counts[BINS:] + self.counts[:BINS][::-1]

    def add(self, values: NDArray[np.float32]) -> None:
        """Count the values of one image's tensor (any shape).

        Of more than MAX_COUNTED values only those at every k-th position count, up to 8,192, which are the same
        positions whatever the batch. The minimum and maximum are taken over all of them.

        Raises:
            CalibrationError: a value is NaN or infinite.
        """
        flat = np.ravel(values).astype(np.float32, copy=False)
        if flat.size == 0:
            return
        counted = flat[:: _stride(flat.size)]
        low, high = _extremes(flat, counted, negative=self.minimum < 0.0)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise CalibrationError("a value is NaN or infinite")
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        self._cover(max(-low, high))
        if self.exponent is None:
            self.counts[BINS] += counted.size
            return
        # A product with a power of two is exact and so is floor: no value can change its bin by rounding.
        scaled = counted * np.float32(1.0 / self.width)
        if low >= 0.0:
            self.counts[BINS:] += np.bincount(scaled.astype(np.intp), minlength=BINS)  # the cast is the floor
            return
        bins = np.floor(scaled, out=scaled)
        np.minimum(bins, np.float32(-1.0), out=bins, where=counted < 0.0)  # a product may vanish, its sign must not
        self.counts += np.bincount(bins.astype(np.intp) + BINS, minlength=2 * BINS)

    def merge(self, other: Histogram) -> None:
        """Count everything that `other` has counted."""
        if other.exponent is not None:
            self._grow(other.exponent)
        theirs = other.counts
        for _ in range(0 if other.exponent is None or self.exponent is None else self.exponent - other.exponent):
            theirs = _merge_pairs(theirs)
        self.counts = self.counts + theirs
        self.minimum, self.maximum = min(self.minimum, other.minimum), max(self.maximum, other.maximum)

    def digest(self) -> str:
        """SHA-256 of the counts and the range."""
        state = hashlib.sha256(np.ascontiguousarray(self.counts, "<i8").tobytes())
        state.update(f"{self.exponent} {self.minimum!r} {self.maximum!r}".encode())
        return state.hexdigest()

    def _cover(self, magnitude: float) -> None:
        """Widen the range until `magnitude` lies strictly inside it."""
        if magnitude > 0.0:
            # Below 2**-100 the reciprocal of a bin's width would overflow float32; such values count as near zero.
            self._grow(max(math.frexp(magnitude)[1], -100))

    def _grow(self, exponent: int) -> None:
        if self.exponent is None:
            self.exponent = exponent
        while self.exponent < exponent:
            self.counts = _merge_pairs(self.counts)
            self.exponent += 1


def _extremes(flat: NDArray[np.float32], some: NDArray[np.float32], *, negative: bool) -> tuple[float, float]:
    """The smallest and the largest of all values; NaN where one is.

    What follows a ReLU is read once for both: the bits of numbers that are not negative, taken as integers, have the
    same order, and those of all others are larger. Where none is negative and one is zero, zero is the smallest.

    Args:
        flat: all of them.
        some: of them, among which a zero is looked for.
        negative: there were negative ones before.
    """
    if not negative:
        largest = flat.view(np.uint32).max()
        if largest < _INFINITY and some.min() == 0.0:
            return 0.0, float(largest.view(np.float32))
    return float(flat.min()) + 0.0, float(flat.max()) + 0.0  # adding zero takes the sign off a negative zero


@lru_cache(maxsize=1024)
def _stride(size: int) -> int:
    """The distance of counted positions: 1, or the smallest prime that is large enough and does not divide `size`.

    A divisor of the size would walk down single columns or channels of the tensor.
    """
    stride = 1 if size <= MAX_COUNTED else -(-size // _COUNTED)
    while stride > 1 and (size % stride == 0 or any(stride % part == 0 for part in range(2, math.isqrt(stride) + 1))):
        stride += 1
    return stride


def _merge_pairs(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same counts over twice the range."""
    merged = np.zeros_like(counts)
    merged[BINS // 2 : BINS // 2 + BINS] = counts.reshape(-1, 2).sum(axis=1)
    return merged
