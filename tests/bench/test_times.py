"""Percentiles and the interval of a median, by hand."""

from __future__ import annotations

from math import comb

import pytest

from edgeq.bench.times import Times, times_of


def seconds(*milliseconds: float) -> list[float]:
    return [each / 1e3 for each in milliseconds]


def test_one_run_is_its_own_median_and_no_more() -> None:
    assert times_of([0.004]) == Times(runs=1, p50_ms=4.0, p90_ms=None, p99_ms=None, low_ms=None, high_ms=None)


def test_ten_runs() -> None:
    """The median is between the fifth and the sixth run, and nine of ten took 9 ms or less.

    Fewer than two runs are below the median of all in 1 + 10 of 1,024 ways, which is less than 2.5 %, fewer than three
    in 56: so the second and the ninth run bound it.
    """
    found = times_of(seconds(10, 1, 9, 2, 8, 3, 7, 4, 6, 5))
    assert found.p50_ms == pytest.approx(5.5)
    assert found.p90_ms == pytest.approx(9)
    assert found.p99_ms is None
    assert found.low_ms == pytest.approx(2)
    assert found.high_ms == pytest.approx(9)


@pytest.mark.parametrize(("runs", "rank"), [(5, None), (6, 1), (8, 1), (9, 2), (20, 6), (100, 40), (1000, 469)])
def test_the_interval_holds_the_median_in_95_of_100_cases(runs: int, rank: int | None) -> None:
    """Rank r and its mirror: the chance that fewer than r runs are below the median is at most 2.5 %, of r + 1 more."""
    found = times_of(seconds(*range(1, runs + 1)))
    if rank is None:
        assert (found.low_ms, found.high_ms) == (None, None)
        return
    assert found.low_ms == pytest.approx(rank)
    assert found.high_ms == pytest.approx(runs + 1 - rank)
    ways = [sum(comb(runs, below) for below in range(most)) / 2**runs for most in (rank, rank + 1)]
    assert ways[0] <= 0.025 < ways[1]


def test_beyond_a_thousand_runs_the_normal_distribution_is_as_good() -> None:
    """(1,001 - 1.96 x 31.64) / 2 is 469.5: the rank of a thousand and one runs is that of a thousand."""
    assert times_of(seconds(*range(1, 1002))).low_ms == pytest.approx(469)


def test_a_hundred_runs_have_a_99th_percentile() -> None:
    found = times_of(seconds(*range(1, 101)))
    assert found.p90_ms == pytest.approx(90)
    assert found.p99_ms == pytest.approx(99)
    assert times_of(seconds(*range(1, 100))).p99_ms is None
