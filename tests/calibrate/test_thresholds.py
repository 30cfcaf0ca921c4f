"""Each method against values for which the right range is known."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.calibrate.histogram import MAX_COUNTED, Histogram
from edgeq.calibrate.thresholds import METHODS, asymmetric_range, symmetric_amax


def histogram_of(*values: float | list[float]) -> Histogram:
    histogram = Histogram()
    everything = np.hstack([np.asarray(value, np.float32) for value in values])
    for part in np.split(everything, range(MAX_COUNTED, len(everything), MAX_COUNTED)):
        histogram.add(part)
    return histogram


def test_minmax_keeps_everything() -> None:
    histogram = histogram_of(-3.0, 0.5, 2.0)
    assert symmetric_amax(histogram, "minmax") == 3.0
    assert asymmetric_range(histogram, "minmax") == (-3.0, 2.0)


def test_percentile_drops_one_outlier_in_a_million() -> None:
    values = np.linspace(0.0, 1.0, 999_999, dtype=np.float32)
    histogram = histogram_of(list(values), 100.0)
    # 99.999 % of a million values lie below 0.99999; bins are 128 / 4096 wide.
    assert symmetric_amax(histogram, "percentile") == pytest.approx(1.0, abs=128 / 4096)


def test_percentile_of_few_values_keeps_all() -> None:
    assert symmetric_amax(histogram_of(-0.3, 0.7), "percentile") == pytest.approx(0.7)


def test_mse_clips_a_lone_outlier_and_keeps_a_flat_distribution() -> None:
    flat = np.linspace(-1.0, 1.0, 100_001, dtype=np.float32)
    assert symmetric_amax(histogram_of(list(flat)), "mse") == pytest.approx(1.0, abs=0.02)
    # Rounding costs n (a / 127)^2 / 12 and clipping the outlier (2 - a)^2; their sum is least where the slopes cancel.
    best = 4.0 / (2.0 + len(flat) / (6.0 * 127**2))
    assert symmetric_amax(histogram_of(list(flat), 2.0), "mse") == pytest.approx(best, abs=0.02)


def test_mse_is_the_best_of_its_candidates_on_the_values_themselves() -> None:
    values = np.random.default_rng(0).laplace(size=200_000).astype(np.float32)
    amax = symmetric_amax(histogram_of(list(values)), "mse")

    def error(limit: float) -> float:
        step = limit / 127
        return float(np.mean((values - np.clip(np.rint(values / step), -127, 127) * step) ** 2))

    # Bin centres stand for the values, so its choice may miss the optimum by the bins' width and no more.
    best = min(error(float(np.abs(values).max()) * part) for part in np.linspace(0.3, 1.0, 141))
    assert error(amax) <= 1.01 * best


@pytest.mark.parametrize("method", METHODS)
def test_a_never_negative_tensor_has_no_low_end(method: str) -> None:
    low, high = asymmetric_range(histogram_of(0.0, 0.25, 1.0), method)
    assert low == 0.0
    assert 0.25 < high <= 1.0


@pytest.mark.parametrize("method", METHODS)
def test_a_never_positive_tensor_has_no_high_end(method: str) -> None:
    low, high = asymmetric_range(histogram_of(-1.0, -0.25), method)
    assert high == 0.0
    assert -1.0 <= low < -0.25


@pytest.mark.parametrize("method", METHODS)
def test_an_all_zero_tensor_has_an_empty_range(method: str) -> None:
    histogram = histogram_of([0.0, 0.0])
    assert symmetric_amax(histogram, method) == 0.0
    assert asymmetric_range(histogram, method) == (0.0, 0.0)


@pytest.mark.parametrize("method", METHODS)
def test_no_method_reaches_beyond_the_extremes(method: str) -> None:
    values = np.random.default_rng(1).normal(size=10_000).astype(np.float32)
    histogram = histogram_of(list(values))
    low, high = asymmetric_range(histogram, method)
    assert histogram.minimum <= low < 0.0 < high <= histogram.maximum
    assert symmetric_amax(histogram, method) <= np.abs(values).max()


def test_entropy_clips_the_tail_and_keeps_the_bulk() -> None:
    values = np.random.default_rng(2).laplace(size=300_000).astype(np.float32)
    amax = symmetric_amax(histogram_of(list(values)), "entropy")
    # Clipping at m leaves exp(-m) of a Laplace distribution outside: a few percent at the least, not the extremes.
    assert 3.0 < amax < 0.9 * float(np.abs(values).max())


def test_entropy_keeps_a_distribution_that_fits_its_levels() -> None:
    values = np.tile(np.linspace(-1.0, 1.0, 201, dtype=np.float32), 300)
    assert symmetric_amax(histogram_of(list(values)), "entropy") > 0.9


def test_the_bin_of_zeros_does_not_decide() -> None:
    values = np.abs(np.random.default_rng(3).normal(size=100_000)).astype(np.float32)
    with_zeros = histogram_of(list(values), [0.0] * 900_000)
    assert symmetric_amax(with_zeros, "entropy") == symmetric_amax(histogram_of(list(values)), "entropy")
