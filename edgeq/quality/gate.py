"""The gate: is the INT8 graph of a transformer worth having?

INT8 costs a transformer accuracy, and its attention, softmax, normalization and GELU stay in floating point, so that it
may not even be faster. It is kept only where it was measured to be, on the backend at hand, and within a bound on what
it loses. The decision is a function of figures: nothing is measured here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.quality.judge import Quality
from edgeq.quality.judged import Judged
from edgeq.quality.latency import Latency
from edgeq.quality.tasks.base import Headline
from edgeq.quality.tasks.classification import Classification
from edgeq.quality.tasks.embedding import Fidelity
from edgeq.quality.tasks.registry import AnyFigures

__all__ = [
    "DEFAULT_BOUNDS",
    "MAX_DROP",
    "MAX_ERROR",
    "MIN_SPEEDUP",
    "Gate",
    "GateBounds",
    "decide",
    "is_gated",
    "sure_speedup",
]

MIN_SPEEDUP: Final = 1.0
"""Times FP32's speed. An INT8 graph that is no faster has nothing to set against what it loses."""

MAX_DROP: Final = 1.0
"""Points of the headline, which is top-1 where a task has no other. With 8 bits, vision transformers are published
within 0.4 points of full precision (PTQ4ViT on ViT-S/B, DeiT-S/B and Swin-S), and 60 points below it where the ranges
are wrong. One point lets through rounding, and the luck of a few thousand images; it stops what is broken."""

MAX_ERROR: Final = 0.3
"""Of the answers' length, where there are no labels: what the canaries demand of an engine on a single image. It stops
a broken graph and says nothing of accuracy."""

_DOUBT: Final = 0.1
"""The limit of the speedup may be above the true median with at most this probability, if there are rounds enough."""


@dataclass(frozen=True)
class GateBounds:
    """What is demanded of an INT8 graph.

    Attributes:
        min_speedup: more than so many times FP32's speed at batch 1, beyond the doubt of the measurement; 0 demands
            nothing.
        max_drop: at most so many points of the headline, such as top-1, where there are labelled images.
        max_error: relative error of the answers at most, where there are none.
    """

    min_speedup: float = MIN_SPEEDUP
    max_drop: float = MAX_DROP
    max_error: float = MAX_ERROR


DEFAULT_BOUNDS: Final = GateBounds()


class Gate(Judged):
    """What was decided, and on what figures.

    Attributes:
        kept: what the bundle runs.
        reasons: a sentence on speed and one on accuracy.
        objections: those of them that speak against INT8; empty where it was kept.
        backend: that the figures are of; nothing is said of another one.
        min_speedup, max_drop, max_error: the bounds.
        latency: at batch 1; None where it was not measured.
        sure_speedup: what the median of the rounds' ratios is above, with `confidence`.
        confidence: in percent.
        answers: of a classifier on labelled images, if there were any.
        fidelity: on images without labels otherwise.
        figures: of another task on labelled images; None and not written otherwise.
    """

    otherwise = "holds no decision of the gate"
    made_by = "edgeq prepare"

    version: Literal["edgeq.gate/1"] = "edgeq.gate/1"
    kept: Literal["int8", "floating point"]
    reasons: tuple[str, ...]
    objections: tuple[str, ...]
    backend: str
    min_speedup: float
    max_drop: float
    max_error: float
    latency: Latency | None
    sure_speedup: float | None
    confidence: float | None
    answers: Classification | None
    fidelity: Fidelity | None
    figures: AnyFigures | None = None

    @property
    def passed(self) -> bool:
        """Whether INT8 was kept."""
        return self.kept == "int8"


def is_gated(plan: PrecisionPlan) -> bool:
    """Whether the gate is asked about a plan: it has attention, and INT8 layers."""
    attention = any(decision.kind.startswith("attention") for decision in plan.decisions)
    return attention and bool(plan.layers(Precision.INT8))


def decide(quality: Quality, bounds: GateBounds = DEFAULT_BOUNDS) -> Gate:
    """Hold the figures of an INT8 graph beside FP32 against the bounds; what was not measured is no objection."""
    latency = next((entry for entry in quality.latency if entry.batch == 1), None)
    limit, confidence = sure_speedup(latency.ratios or (latency.speedup_low,)) if latency else (None, None)
    checks = (_speed(latency, limit, confidence, bounds), _accuracy(quality.headline, bounds))
    objections = tuple(reason for good, reason in checks if not good)
    return Gate(
        kept="floating point" if objections else "int8",
        reasons=tuple(reason for _, reason in checks),
        objections=objections,
        backend=quality.backend,
        min_speedup=bounds.min_speedup,
        max_drop=bounds.max_drop,
        max_error=bounds.max_error,
        latency=latency,
        sure_speedup=limit,
        confidence=confidence,
        answers=quality.answers,
        fidelity=quality.fidelity,
        figures=quality.figures,
    )


def sure_speedup(ratios: Sequence[float]) -> tuple[float, float]:
    """A lower limit of the median of what ratios were drawn from, and the confidence in percent.

    The k-th smallest of n is above the median if fewer than k of them are below it, each with probability one half,
    whatever the distribution is. The largest k with at most 10 % doubt is taken; 1 where there is none.
    """
    count, place = len(ratios), 1
    while place < count and _above_median(count, place + 1) <= _DOUBT:
        place += 1
    return sorted(ratios)[place - 1], 100.0 * (1.0 - _above_median(count, place))


def _above_median(count: int, place: int) -> float:
    """Probability that the `place`-th smallest of `count` is above the median."""
    return sum(math.comb(count, below) for below in range(place)) / 2.0**count


def _speed(
    latency: Latency | None, limit: float | None, confidence: float | None, bounds: GateBounds
) -> tuple[bool, str]:
    if latency is None or limit is None:
        return True, "its speed was not measured"
    wanted = bounds.min_speedup
    measured = (
        f"at batch 1 INT8 is {latency.speedup:.2f} times as fast as FP32 "
        f"({latency.speedup_low:.2f} to {latency.speedup_high:.2f} in {latency.rounds} rounds)"
    )
    if limit > wanted:
        return True, f"{measured}, with {confidence:.0f} % more than {limit:.2f}"
    if latency.speedup > wanted:
        return False, f"{measured}, which does not show that it is more than {wanted:g}"
    return False, f"{measured}, and more than {wanted:g} is demanded"


def _accuracy(headline: Headline | None, bounds: GateBounds) -> tuple[bool, str]:
    if headline is None:
        return True, "its answers were not judged"
    if not headline.labelled:
        allowed = bounds.max_error if headline.allowed is None else headline.allowed
        return headline.drop <= allowed, (
            f"without labelled images accuracy was not judged; the answers to {headline.examples} images differ by "
            f"{headline.drop:.1%} {headline.unit}, at most {allowed:.0%} is allowed"
        )
    doubt = "" if headline.standard_error is None else f" ± {headline.standard_error:.2f}"
    return headline.drop <= bounds.max_drop, (
        f"{headline.name} drops by {headline.drop:.2f}{doubt} {headline.unit} on {headline.examples} images, "
        f"at most {bounds.max_drop:g} is allowed"
    )
