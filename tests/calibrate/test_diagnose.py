"""Distances, clipped shares and warnings against cases that can be worked out."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeq.calibrate.diagnose import DRIFT_BOUND, clipped_share, diagnose, distance, drift
from edgeq.calibrate.histogram import Histogram
from edgeq.calibrate.scales import Scales, TensorScale
from edgeq.errors import CalibrationError


def histogram_of(values: NDArray[np.float64] | list[float]) -> Histogram:
    histogram = Histogram()
    histogram.add(np.asarray(values, np.float32))
    return histogram


def scales_of(**tensors: Histogram) -> Scales:
    made = {name: TensorScale.from_histogram(histogram) for name, histogram in tensors.items()}
    return Scales(graph_sha256="", preprocess_sha256="", images=1, method="minmax", tensors=made)


UNIFORM = np.linspace(0.0, 0.999, 1000)


def test_the_same_shape_has_no_distance_whatever_its_size() -> None:
    assert distance(histogram_of(UNIFORM), histogram_of(np.repeat(UNIFORM, 3))) == pytest.approx(0.0)


def test_no_overlap_is_a_distance_of_one() -> None:
    assert distance(histogram_of(UNIFORM), histogram_of(-UNIFORM - 0.01)) == pytest.approx(1.0)


def test_half_an_overlap_is_half_the_distance() -> None:
    # 0..1 against 0.5..1.5 on a common range of -2..2, whose 64 bins are 1/16 wide.
    assert distance(histogram_of(UNIFORM), histogram_of(UNIFORM + 0.5)) == pytest.approx(0.5, abs=0.01)


def test_the_order_of_the_two_does_not_matter_and_neither_is_changed() -> None:
    first, second = histogram_of(UNIFORM), histogram_of(8 * UNIFORM)
    before = first.digest(), second.digest()
    assert distance(first, second) == distance(second, first)
    assert (first.digest(), second.digest()) == before


def test_drift_is_the_median_over_tensors() -> None:
    first = {name: histogram_of(UNIFORM) for name in "abc"}
    second = {"a": histogram_of(UNIFORM), "b": histogram_of(UNIFORM + 0.5), "c": histogram_of(-UNIFORM - 0.01)}
    assert drift(first, second) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(("high", "share"), [(1.0, 0.0), (0.75, 0.25), (0.5, 0.5)])
def test_clipped_share_of_a_uniform_distribution(high: float, share: float) -> None:
    assert clipped_share(histogram_of(UNIFORM), 0.0, high) == pytest.approx(share, abs=0.002)


def test_clipping_on_both_sides_counts() -> None:
    both = histogram_of(np.hstack([UNIFORM, -UNIFORM]))
    assert clipped_share(both, -0.5, 0.75) == pytest.approx((0.25 + 0.5) / 2, abs=0.002)


def test_zeros_are_never_clipped() -> None:
    assert clipped_share(histogram_of([0.0, 0.0]), 0.0, 0.0) == 0.0
    assert clipped_share(histogram_of([0.0, 0.0, 1.0]), 0.0, 0.0) == pytest.approx(1 / 3)


def test_a_tensor_that_never_fired_is_named() -> None:
    diagnosis = diagnose(scales_of(dead=histogram_of([0.0]), alive=histogram_of(UNIFORM)))
    assert diagnosis.never_fired == ("dead",)
    assert "1 tensors were zero on every calibration image: dead" in set(diagnosis.warnings())


def test_evaluation_images_of_another_kind_are_told() -> None:
    scales = scales_of(a=histogram_of(UNIFORM))
    diagnosis = diagnose(scales, {"a": histogram_of(4 * UNIFORM)})
    assert diagnosis.evaluation_drift is not None
    assert diagnosis.evaluation_drift > DRIFT_BOUND
    assert diagnosis.evaluation_clipped is not None
    assert diagnosis.evaluation_clipped[0] == pytest.approx(0.75, abs=0.01)
    told = " ".join(diagnosis.warnings())
    assert "unlike" in told
    assert "evaluation values of tensor a are clipped" in told


def test_a_set_like_the_evaluation_images_is_passed_in_silence() -> None:
    diagnosis = diagnose(scales_of(a=histogram_of(UNIFORM)), {"a": histogram_of(UNIFORM[::2])})
    assert list(diagnosis.warnings()) == []


def test_a_set_that_is_too_small_is_told() -> None:
    scales = scales_of(a=histogram_of(UNIFORM)).model_copy(update={"drift": 0.2})
    assert any("too small" in warning for warning in diagnose(scales).warnings())


def test_scales_without_histograms_cannot_be_diagnosed() -> None:
    scales = scales_of(a=histogram_of(UNIFORM))
    bare = scales.tensors["a"].model_copy(update={"histogram": None})
    with pytest.raises(CalibrationError, match="hold no histograms"):
        diagnose(scales.model_copy(update={"tensors": {"a": bare}}))


def test_a_plan_that_leaves_nothing_in_int8_has_nothing_to_warn_of() -> None:
    found = diagnose(scales_of(), {})
    assert found.clipped == (0.0, "")
    assert list(found.warnings()) == []
