"""The gate's decision on given figures; nothing is measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeq.errors import ArtifactError
from edgeq.plan.precision import Decision, Precision, PrecisionPlan
from edgeq.quality.gate import DEFAULT_BOUNDS, Gate, GateBounds, decide, is_gated, sure_speedup
from edgeq.quality.judge import Quality
from edgeq.quality.latency import Latency
from edgeq.quality.tasks.classification import Classification
from edgeq.quality.tasks.embedding import Fidelity

FASTER = (2.1, 2.0, 2.2, 2.05, 2.15, 1.9, 2.3)


def latency(ratios: tuple[float, ...], *, batch: int = 1) -> Latency:
    return Latency(
        batch=batch,
        threads=1,
        rounds=len(ratios),
        reference_ms=10.0,
        candidate_ms=5.0,
        speedup=sorted(ratios)[len(ratios) // 2],
        speedup_low=min(ratios),
        speedup_high=max(ratios),
        ratios=ratios,
    )


def answers(drop: float) -> Classification:
    return Classification(
        images=5000,
        top1_reference=80.0,
        top1_candidate=80.0 - drop,
        drop=drop,
        drop_standard_error=0.15,
        agreement=98.0,
        only_reference_right=60,
        only_candidate_right=40,
        logit_error=0.05,
        feature_cosine_mean=0.999,
        feature_cosine_worst=0.99,
    )


def fidelity(error: float) -> Fidelity:
    return Fidelity(images=16, error=error, cosine_mean=0.99, cosine_worst=0.9, agreement=100.0, neighbours=None)


def quality(
    ratios: tuple[float, ...] | None = FASTER, *, drop: float | None = None, error: float | None = None
) -> Quality:
    return Quality(
        backend="onnxruntime",
        answers=None if drop is None else answers(drop),
        fidelity=None if error is None else fidelity(error),
        latency=() if ratios is None else (latency((0.5,) * 7, batch=64), latency(ratios)),
        reference_bytes=4,
        candidate_bytes=1,
    )


def test_int8_that_is_faster_and_loses_little_is_kept() -> None:
    gate = decide(quality(drop=0.4))
    assert (gate.kept, gate.passed, gate.objections) == ("int8", True, ())
    assert gate.latency is not None
    assert gate.latency.batch == 1, "the other batch size, at which INT8 is slower, is not asked"
    assert "2.10 times as fast as FP32 (1.90 to 2.30 in 7 rounds)" in gate.reasons[0]
    assert "drops by 0.40 ± 0.15 points on 5000 images" in gate.reasons[1]


def test_int8_that_is_slower_is_not_kept_however_right_it_is() -> None:
    gate = decide(quality((0.9, 0.95, 0.8, 0.92, 0.97, 0.85, 0.91), drop=0.0))
    assert (gate.kept, gate.passed) == ("floating point", False)
    assert gate.objections == gate.reasons[:1]
    assert "0.91 times as fast as FP32 (0.80 to 0.97 in 7 rounds), and more than 1 is demanded" in gate.objections[0]


def test_a_median_above_one_that_the_rounds_do_not_bear_out_is_not_enough() -> None:
    gate = decide(quality((1.3, 0.8, 1.1, 0.9, 1.4, 1.2, 0.7), drop=0.0))
    assert not gate.passed
    assert "does not show that it is more than 1" in gate.objections[0]


def test_one_bad_round_of_seven_does_not_count() -> None:
    assert decide(quality((*FASTER[:6], 0.3), drop=0.0)).passed
    assert not decide(quality((*FASTER[:5], 0.3, 0.3), drop=0.0)).passed


def test_int8_that_loses_too_much_is_not_kept_however_fast_it_is() -> None:
    gate = decide(quality(drop=1.2))
    assert not gate.passed
    assert gate.objections == gate.reasons[1:]
    assert "at most 1 is allowed" in gate.objections[0]


def test_a_gain_is_no_loss() -> None:
    assert decide(quality(drop=-2.0)).passed


@pytest.mark.parametrize(("error", "kept"), [(0.05, True), (0.3, True), (0.31, False)])
def test_without_labels_only_what_is_broken_is_stopped(error: float, kept: bool) -> None:
    gate = decide(quality(error=error))
    assert gate.passed is kept
    assert "without labelled images accuracy was not judged" in gate.reasons[1]


def test_the_bounds_are_the_callers() -> None:
    assert not decide(quality(drop=0.4), GateBounds(max_drop=0.3)).passed
    assert not decide(quality(drop=0.4), GateBounds(min_speedup=2.0)).passed
    assert decide(quality((0.5,) * 7, drop=0.4), GateBounds(min_speedup=0.0)).passed


def test_what_was_not_measured_is_no_objection() -> None:
    gate = decide(quality(None))
    assert gate.passed
    assert gate.reasons == ("its speed was not measured", "its answers were not judged")


def test_both_objections_are_told() -> None:
    assert len(decide(quality((0.5,) * 7, drop=5.0)).objections) == 2


# The k-th smallest of n lies above the median with the probability of fewer than k heads in n throws.
@pytest.mark.parametrize(
    ("count", "place", "doubt"),
    [
        (1, 1, 1 / 2),
        (3, 1, 1 / 8),
        (4, 1, 1 / 16),
        (7, 2, 8 / 128),
        (9, 3, (1 + 9 + 36) / 512),
    ],
)
def test_the_limit_is_an_order_statistic(count: int, place: int, doubt: float) -> None:
    ratios = [float(10 + (7 * number) % count) for number in range(count)]
    limit, confidence = sure_speedup(ratios)
    assert limit == sorted(ratios)[place - 1]
    assert confidence == pytest.approx(100 * (1 - doubt))


def plan(kind: str, precision: Precision) -> PrecisionPlan:
    decision = Decision(layer="a", op="MatMul", kind=kind, precision=precision, rule="r", reason="s")
    return PrecisionPlan(decisions=(decision,))


@pytest.mark.parametrize(
    ("kind", "precision", "asked"),
    [
        ("attention query/key", Precision.INT8, True),
        ("attention query/key", Precision.FP16, False),
        ("convolution", Precision.INT8, False),
    ],
)
def test_transformers_with_int8_layers_are_asked(kind: str, precision: Precision, asked: bool) -> None:
    assert is_gated(plan(kind, precision)) is asked


def test_a_decision_read_back_equals_itself(tmp_path: Path) -> None:
    gate = decide(quality(drop=0.4), DEFAULT_BOUNDS)
    gate.save(tmp_path / "gate.json")
    assert Gate.load(tmp_path / "gate.json") == gate
    (tmp_path / "gate.json").write_text('{"version": "edgeq.gate/2"}')
    with pytest.raises(ArtifactError, match="holds no decision of the gate"):
        Gate.load(tmp_path / "gate.json")
