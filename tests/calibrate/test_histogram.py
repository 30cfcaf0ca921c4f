"""The histogram's laws: what it counts depends on the values alone, not on how they came."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from edgeq.calibrate.histogram import BINS, Histogram
from edgeq.errors import CalibrationError

FINITE = st.floats(-(2.0**100), 2.0**100, width=32, allow_nan=False)
CORNERS = (0.0, -0.0, 2.0**-149, -(2.0**-149), 1.0, -1.0, 3.5, 2.0**100)
VALUES = hnp.arrays(np.float32, st.integers(1, 60), elements=FINITE)


def counted(*parts: NDArray[np.float32]) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(part)
    return histogram


def state(histogram: Histogram) -> tuple[object, ...]:
    return histogram.exponent, histogram.minimum, histogram.maximum, histogram.counts.tobytes()


@given(VALUES, st.integers(0, 2**32 - 1), st.integers(1, 20))
def test_batches_and_order_change_nothing(values: NDArray[np.float32], seed: int, size: int) -> None:
    order = np.random.default_rng(seed).permutation(len(values))
    shuffled = values[order]
    parts = [shuffled[start : start + size] for start in range(0, len(values), size)]
    assert state(counted(*parts)) == state(counted(values))
    assert counted(*parts).digest() == counted(values).digest()


@given(VALUES, VALUES)
def test_merge_of_two_halves_is_the_whole(first: NDArray[np.float32], second: NDArray[np.float32]) -> None:
    merged = counted(first)
    merged.merge(counted(second))
    assert state(merged) == state(counted(first, second))


@given(VALUES)
def test_every_value_lies_in_its_bin(values: NDArray[np.float32]) -> None:
    histogram = counted(values)
    assert histogram.total == len(values)
    assert histogram.minimum == values.min()
    assert histogram.maximum == values.max()
    for index in np.flatnonzero(histogram.counts):
        low = float(index - BINS) * histogram.width
        inside = (values.astype(np.float64) >= low) & (values.astype(np.float64) < low + histogram.width)
        if histogram.width > 0.0:
            assert inside.sum() == histogram.counts[index]


@given(VALUES)
def test_more_than_half_of_the_bins_are_in_use(values: NDArray[np.float32]) -> None:
    histogram = counted(values)
    largest = float(np.abs(values).max())
    if largest > 2.0**-99:
        assert BINS // 2 * histogram.width <= largest < BINS * histogram.width


def test_the_range_doubles_and_bins_merge_in_pairs() -> None:
    histogram = counted(np.array([0.75, -0.75], np.float32))
    assert histogram.exponent == 0
    histogram.add(np.array([3.0], np.float32))
    assert histogram.exponent == 2
    # 0.75 of a range of 4 is bin 0.1875 * 4096 = 768; -0.75 begins that many bins below zero.
    assert np.flatnonzero(histogram.counts).tolist() == [BINS - 768, BINS + 768, BINS + 3072]


def test_a_power_of_two_lies_inside_the_range_above_it() -> None:
    assert counted(np.array([1.0], np.float32)).exponent == 1


def test_zeros_alone_have_no_width() -> None:
    histogram = counted(np.zeros(7, np.float32))
    assert (histogram.exponent, histogram.width, histogram.total) == (None, 0.0, 7)
    assert (histogram.minimum, histogram.maximum) == (0.0, 0.0)


def test_magnitudes_fold_both_signs() -> None:
    histogram = counted(np.array([0.5, -0.5 + 1e-6, 0.25], np.float32))
    assert histogram.magnitudes.sum() == 3
    assert histogram.magnitudes[int(0.25 / histogram.width)] == 1


def test_an_empty_array_counts_nothing() -> None:
    assert counted(np.zeros((0, 3), np.float32)).total == 0


@pytest.mark.parametrize(("size", "stride"), [(100, 1), (16_384, 1), (16_385, 3), (32_768, 5), (802_816, 101)])
def test_of_a_large_tensor_every_kth_value_counts(size: int, stride: int) -> None:
    # At most 8,192 of more: 16,385 = 5 * 29 * 113 needs 2.0001, 32,768 needs 4, 802,816 = 64 * 112 * 112 needs 98.
    assert counted(np.ones(size, np.float32)).total == -(-size // stride)


def test_the_extremes_of_a_large_tensor_are_exact() -> None:
    values = np.zeros(802_816, np.float32)
    values[1], values[2] = -3.0, 7.0
    histogram = counted(values)
    assert (histogram.minimum, histogram.maximum, histogram.exponent) == (-3.0, 7.0, 3)


@given(st.lists(hnp.arrays(np.float32, st.integers(1, 6), elements=st.sampled_from(CORNERS)), min_size=1, max_size=4))
def test_the_extremes_are_exact_whatever_the_signs(parts: list[NDArray[np.float32]]) -> None:
    whole, histogram = np.concatenate(parts), counted(*parts)
    assert (histogram.minimum, histogram.maximum) == (whole.min(), whole.max())
    assert not np.signbit([histogram.minimum, histogram.maximum])[whole[[whole.argmin(), whole.argmax()]] == 0.0].any()
    assert histogram.digest() == counted(whole).digest()


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("other", [0.5, 0.0, -0.5])
def test_nan_and_infinity_are_refused_before_anything_is_counted(value: float, other: float) -> None:
    for first in (1.0, -1.0):
        histogram = counted(np.array([first], np.float32))
        before = state(histogram)
        with pytest.raises(CalibrationError):
            histogram.add(np.array([other, value], np.float32))
        assert state(histogram) == before
