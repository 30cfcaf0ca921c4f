"""The gate's decision on given figures; nothing is measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeq.errors import ArtifactError
from edgeq.plan.precision import Decision, Precision, PrecisionPlan
from edgeq.quality.gate import (
    DEFAULT_BOUNDS,
    Gate,
    GateBounds,
    decide,
    is_gated,
    is_transformer,
    judge_graph,
    sure_speedup,
)
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


def answers(drop: float, *, images: int = 5000, error: float = 0.15) -> Classification:
    return Classification(
        images=images,
        top1_reference=80.0,
        top1_candidate=80.0 - drop,
        drop=drop,
        drop_standard_error=error,
        agreement=98.0,
        only_reference_right=60,
        only_candidate_right=40,
        logit_error=0.05,
        feature_cosine_mean=0.999,
        feature_cosine_worst=0.99,
    )


def fidelity(error: float, spread: float | None = None) -> Fidelity:
    return Fidelity(
        images=16,
        error=error,
        cosine_mean=0.99,
        cosine_worst=0.9,
        agreement=100.0,
        neighbours=None,
        spread_error=spread,
    )


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


def judged(found: Classification | Fidelity) -> Quality:
    labelled = isinstance(found, Classification)
    return Quality(
        backend="onnxruntime",
        answers=found if labelled else None,
        fidelity=None if labelled else found,
        latency=(),
        reference_bytes=4,
        candidate_bytes=1,
    )


def paired(images: int, lost: int, won: int) -> Quality:
    """What FP32 alone gets right, and INT8 alone."""
    drop = (lost - won) / images
    error = 100 * ((lost + won) / images - drop**2) ** 0.5 / images**0.5
    return judged(answers(100 * drop, images=images, error=error))


# With one image added on either side (Bonett and Price), k lost and none won of n: mean k / (n + 2), share
# (k + 2) / (n + 2), and the lower limit is mean - 1.645 sqrt((share - mean^2) / (n + 2)).
@pytest.mark.parametrize(
    ("images", "lost", "won", "kept"),
    [
        (12, 1, 0, True),  # 8.3 points
        (12, 3, 0, True),  # 25 points: 0.214 - 1.645 * 0.149 < 0
        (12, 5, 0, False),  # 42 points: 0.357 - 1.645 * 0.163 > 0
        (500, 7, 3, True),  # 0.8 points, below the bound
        (500, 8, 2, False),  # 1.2 points: 0.0120 - 1.645 * 0.0068 > 0
        (500, 13, 7, True),  # 1.2 points: 0.0120 - 1.645 * 0.0093 < 0
        (5000, 130, 70, False),  # 1.2 points
    ],
)
def test_a_drop_that_may_be_luck_is_no_objection(images: int, lost: int, won: int, kept: bool) -> None:
    gate = decide(paired(images, lost, won))
    assert (gate.passed, gate.accurate) == (kept, kept)


def test_too_few_images_are_told_and_how_many_would_do() -> None:
    (doubt,) = decide(paired(100, 0, 0)).doubts
    # No image changed, and 2 are added: 1.645 * sqrt(2) / N is 1 % for N = 233.
    assert "100 images do not show that top-1 drops by at most 1 points" in doubt
    assert "about 240 would" in doubt
    assert decide(paired(234, 0, 0)).doubts == ()
    (doubt,) = decide(paired(500, 13, 7)).doubts
    assert "more images would tell" in doubt, "the drop measured is above the bound"
    assert decide(paired(5000, 10, 10)).doubts == ()


@pytest.mark.parametrize(("rounding", "kept"), [(0.0, False), (0.009, False), (0.01, True)])
def test_images_told_apart_by_less_than_fp16_rounds_are_no_objection(rounding: float, kept: bool) -> None:
    found = judge_graph("model.fp16.onnx", "tensorrt", "onnxruntime", fidelity(0.01, 5.0).headline(), rounding=rounding)
    assert found.kept is kept
    assert ("by less than FP16 rounds" in found.doubt) is kept


@pytest.mark.parametrize(("spread", "classes", "kept"), [(0.1, True, True), (0.1, False, False), (0.16, True, False)])
def test_answers_without_labels_are_held_against_what_tells_images_apart(
    spread: float, classes: bool, kept: bool
) -> None:
    gate = decide(judged(fidelity(0.05, spread)), classes=classes)
    assert (gate.passed, gate.accurate) == (kept, kept)
    assert f"differ by {spread:.1%} of what tells images apart" in gate.reasons[-1]
    assert decide(judged(fidelity(0.05, spread)), GateBounds(max_spread=0.2), classes=classes).passed


def test_answers_that_are_all_one_are_in_doubt() -> None:
    gate = decide(judged(fidelity(0.05)))
    assert gate.passed
    assert gate.doubts == ("FP32 gives all images the same answer, so what INT8 loses was not seen",)


def test_speed_is_asked_of_transformers_alone() -> None:
    slow = quality((0.5,) * 7, drop=0.0)
    gate = decide(slow, speed=False)
    assert (gate.passed, gate.sure_speedup, len(gate.reasons)) == (True, None, 1)
    assert gate.latency is not None
    assert not decide(slow, speed=True).passed


def test_a_gate_that_is_off_keeps_int8_and_says_what_speaks_against_it() -> None:
    off = GateBounds(enforced=False)
    gate = decide(quality((0.5,) * 7, drop=5.0), off)
    assert (gate.kept, len(gate.objections), gate.enforced, gate.accurate) == ("int8", 2, False, False)
    worse = judge_graph("a.onnx", "tensorrt", "a stand-in", answers(5.0).headline(), off)
    assert worse.kept
    assert "drops by 5.00" in worse.reason


def test_a_further_graph_is_judged_by_accuracy_alone() -> None:
    good, bad = (judge_graph("a.onnx", "tensorrt", "a stand-in", answers(drop).headline()) for drop in (0.2, 3.0))
    gate = decide(quality(drop=0.2)).model_copy(update={"others": (good, bad.model_copy(update={"graph": "b.onnx"}))})
    assert gate.passed
    assert gate.refused == {"b.onnx"}
    (objection,) = gate.all_objections()
    assert objection.startswith("b.onnx: top-1 drops by 3.00")


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
    ("kind", "precision", "asked", "speed"),
    [
        ("attention query/key", Precision.INT8, True, True),
        ("attention query/key", Precision.FP16, False, True),
        ("convolution", Precision.INT8, True, False),
    ],
)
def test_every_plan_with_int8_layers_is_asked_and_transformers_for_their_speed(
    kind: str, precision: Precision, asked: bool, speed: bool
) -> None:
    made = plan(kind, precision)
    assert (is_gated(made), is_transformer(made)) == (asked, speed)


def test_a_decision_read_back_equals_itself(tmp_path: Path) -> None:
    gate = decide(quality(drop=0.4), DEFAULT_BOUNDS)
    gate.save(tmp_path / "gate.json")
    assert Gate.load(tmp_path / "gate.json") == gate
    written = json.loads((tmp_path / "gate.json").read_text())
    assert not {"figures", "doubts", "others", "worst_layers", "accurate", "enforced"} & written.keys()
    del written["max_spread"]  # as it was written before there was that bound
    (tmp_path / "gate.json").write_text(json.dumps(written))
    assert Gate.load(tmp_path / "gate.json") == gate.model_copy(update={"max_spread": None})
    (tmp_path / "gate.json").write_text('{"version": "edgeq.gate/2"}')
    with pytest.raises(ArtifactError, match="holds no decision of the gate"):
        Gate.load(tmp_path / "gate.json")
