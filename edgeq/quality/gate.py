"""The gate: is an INT8 graph worth having?

INT8 may cost any network its accuracy, in the graph of one backend more than in another's: it is kept only within a
bound on what it loses. A transformer's attention, softmax, normalization and GELU stay in floating point besides, so
that its INT8 may not even be faster: it is kept only where it was measured to be, on the backend at hand. The decision
is a function of figures: nothing is measured here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict

from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.quality.accuracy import AccuracyBounds, judge_accuracy
from edgeq.quality.judge import Quality
from edgeq.quality.judged import Judged
from edgeq.quality.latency import Latency
from edgeq.quality.tasks.base import Headline
from edgeq.quality.tasks.classification import Classification
from edgeq.quality.tasks.embedding import Fidelity
from edgeq.quality.tasks.registry import AnyFigures

__all__ = [
    "DEFAULT_BOUNDS",
    "MAX_CLASS_SPREAD",
    "MAX_DROP",
    "MAX_ERROR",
    "MAX_FEATURE_SPREAD",
    "MIN_SPEEDUP",
    "Gate",
    "GateBounds",
    "GraphVerdict",
    "WorstLayer",
    "decide",
    "is_gated",
    "is_transformer",
    "judge_graph",
    "sure_speedup",
]

MIN_SPEEDUP: Final = 1.0
"""Times FP32's speed. An INT8 graph that is no faster has nothing to set against what it loses."""

MAX_DROP: Final = 1.0
"""Points of the headline, which is top-1 where a task has no other. With 8 bits, vision transformers are published
within 0.4 points of full precision (PTQ4ViT on ViT-S/B, DeiT-S/B and Swin-S), and 60 points below it where the ranges
are wrong. One point lets through rounding, and the luck of a few thousand images; it stops what is broken."""

MAX_CLASS_SPREAD: Final = 0.15
"""Error of logits against what tells images apart, where there are no labels: where four trained classifiers in INT8 of
many qualities began to lose a point of top-1 (`docs/decisions/0022-a-bound-for-every-network.md`)."""

MAX_FEATURE_SPREAD: Final = 0.07
"""The same of features, which are compared with each other by more than their largest number: where a trained image
encoder began to lose a point of recall@1."""

MAX_ERROR: Final = 0.3
"""Of the answers' length, where there are no labels: what the canaries demand of an engine on a single image."""

_DOUBT: Final = 0.1
"""The limit of the speedup may be above the true median with at most this probability, if there are rounds enough."""


@dataclass(frozen=True)
class GateBounds:
    """What is demanded of an INT8 graph.

    Attributes:
        min_speedup: of a transformer, more than so many times FP32's speed at batch 1, beyond the doubt of the
            measurement; 0 demands nothing.
        max_drop: at most so many points of the headline, such as top-1, where there are labelled images. A drop that
            may be the luck of few images is no objection.
        max_error: relative error of the answers at most, where there are none.
        max_spread: their error against what tells images apart at most; None takes `MAX_CLASS_SPREAD` where the
            network's classes are known, and `MAX_FEATURE_SPREAD` elsewhere.
        enforced: False keeps INT8 whatever it loses, for comparison; what speaks against it is written all the same.
    """

    min_speedup: float = MIN_SPEEDUP
    max_drop: float = MAX_DROP
    max_error: float = MAX_ERROR
    max_spread: float | None = None
    enforced: bool = True

    def loosened(self) -> GateBounds:
        """The usual bounds of accuracy where these are closer: a bound that keeps INT8 out is none on FP16."""
        spread = self.max_spread if self.max_spread is None or self.max_spread > MAX_CLASS_SPREAD else None
        return replace(
            self,
            max_drop=max(self.max_drop, MAX_DROP),
            max_error=max(self.max_error, MAX_ERROR),
            max_spread=spread,
        )

    def accuracy(self, *, classes: bool) -> AccuracyBounds:
        """The bounds of accuracy.

        Args:
            classes: the answers are logits of classes; otherwise they are features.
        """
        usual = MAX_CLASS_SPREAD if classes else MAX_FEATURE_SPREAD
        return AccuracyBounds(self.max_drop, usual if self.max_spread is None else self.max_spread, self.max_error)


DEFAULT_BOUNDS: Final = GateBounds()


class WorstLayer(BaseModel):
    """A layer that loses most.

    Attributes:
        layer, op: as in the plan.
        logit_error: what it makes of the answers when it alone is INT8: ||changed - FP32|| / ||FP32||.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: str
    op: str
    logit_error: float


class GraphVerdict(BaseModel):
    """What accuracy says of a further graph of the same network, whose speed is a matter of another place.

    Attributes:
        graph: its file.
        made_for: the backend that it is for.
        run_by: what it was run by here, with its version: a stand-in where that backend is not at hand.
        kept: whether it stays in the bundle.
        reason: what was measured.
        doubt: why that does not show enough; empty where it does.
        headline: the one figure that decided.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    graph: str
    made_for: str
    run_by: str
    kept: bool
    reason: str
    doubt: str
    headline: Headline


class Gate(Judged):
    """What was decided, and on what figures.

    Attributes:
        kept: what the backend that was judged runs.
        reasons: a sentence on speed, where that was asked, and one on accuracy.
        objections: those of them that speak against INT8; empty where it was kept.
        backend: that the figures are of; nothing is said of another one.
        min_speedup, max_drop, max_error: the bounds.
        latency: at batch 1; None where it was not measured.
        sure_speedup: what the median of the rounds' ratios is above, with `confidence`; None where it was not asked.
        confidence: in percent.
        answers: of a classifier on labelled images, if there were any.
        fidelity: on images without labels otherwise.
        figures: of another task on labelled images; None and not written otherwise.
        max_spread: the bound on the error against what tells images apart; None in decisions of before there was one.
        accurate: no objection is of accuracy.
        doubts: what the figures do not show.
        others: the graphs of other backends.
        worst_layers: where accuracy was lost, the layers that lose most, the worst first.
        enforced: False where INT8 was kept in spite of the objections.
    """

    otherwise = "holds no decision of the gate"
    made_by = "edgeq prepare"
    later: ClassVar[tuple[str, ...]] = (
        *("figures", "max_spread", "accurate", "doubts", "others", "worst_layers", "enforced"),
    )

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
    max_spread: float | None = None
    accurate: bool = True
    doubts: tuple[str, ...] = ()
    others: tuple[GraphVerdict, ...] = ()
    worst_layers: tuple[WorstLayer, ...] = ()
    enforced: bool = True

    @property
    def passed(self) -> bool:
        """Whether the backend that was judged runs INT8."""
        return self.kept == "int8"

    @property
    def refused(self) -> frozenset[str]:
        """The files of further graphs that were not kept."""
        return frozenset(other.graph for other in self.others if not other.kept)

    def all_objections(self) -> tuple[str, ...]:
        """Those of every graph; those of another backend's graph begin with its file."""
        return (*self.objections, *(f"{other.graph}: {other.reason}" for other in self.others if not other.kept))

    def worst(self) -> str:
        """The layers that lose most, in a sentence; empty where none was looked for."""
        layers = ", ".join(f"{line.layer} ({line.op}, {line.logit_error:.3f})" for line in self.worst_layers)
        return (
            f"the layers that lose most, with the error of the answers that each makes alone: {layers}"
            if layers
            else ""
        )

    def all_doubts(self) -> tuple[str, ...]:
        """Those of every graph; those of another backend's graph begin with its file."""
        return (*self.doubts, *(f"{other.graph}: {other.doubt}" for other in self.others if other.doubt))


def is_gated(plan: PrecisionPlan) -> bool:
    """Whether the gate is asked about a plan: it has INT8 layers."""
    return bool(plan.layers(Precision.INT8))


def is_transformer(plan: PrecisionPlan) -> bool:
    """Whether speed is asked as well: there is attention, which stays in floating point between INT8 layers."""
    return any(decision.kind.startswith("attention") for decision in plan.decisions)


def decide(quality: Quality, bounds: GateBounds = DEFAULT_BOUNDS, *, speed: bool = True, classes: bool = True) -> Gate:
    """Hold the figures of an INT8 graph beside FP32 against the bounds; what was not measured is no objection.

    Args:
        quality: the figures.
        bounds: what is demanded.
        speed: whether it has to be faster than FP32.
        classes: as in `GateBounds.accuracy`.
    """
    latency = next((entry for entry in quality.latency if entry.batch == 1), None)
    asked = latency if speed else None
    limit, confidence = sure_speedup(asked.ratios or (asked.speedup_low,)) if asked else (None, None)
    allowed = bounds.accuracy(classes=classes)
    accuracy = judge_accuracy(quality.headline, allowed)
    checks = [(accuracy.good, accuracy.reason)]
    if speed:
        checks.insert(0, _speed(latency, limit, confidence, bounds))
    objections = tuple(reason for good, reason in checks if not good)
    return Gate(
        kept="floating point" if objections and bounds.enforced else "int8",
        reasons=tuple(reason for _, reason in checks),
        objections=objections,
        backend=quality.backend,
        min_speedup=bounds.min_speedup,
        max_drop=bounds.max_drop,
        max_error=bounds.max_error,
        latency=latency,
        sure_speedup=limit,
        confidence=confidence,
        answers=quality.answers and quality.answers.model_copy(update={"changed": ()}),  # quality.json names them
        fidelity=quality.fidelity,
        figures=quality.figures,
        max_spread=allowed.max_spread,
        accurate=accuracy.good,
        doubts=(accuracy.doubt,) if accuracy.doubt else (),
        enforced=bounds.enforced,
    )


def judge_graph(
    graph: str,
    made_for: str,
    run_by: str,
    headline: Headline,
    bounds: GateBounds = DEFAULT_BOUNDS,
    *,
    classes: bool = True,
    rounding: float = 0.0,
) -> GraphVerdict:
    """What accuracy says of a further graph.

    Args:
        graph, made_for, run_by: as in `GraphVerdict`.
        headline: of the comparison with FP32.
        bounds: what is demanded.
        classes: as in `GateBounds.accuracy`.
        rounding: as in `AccuracyBounds`.
    """
    accuracy = judge_accuracy(headline, replace(bounds.accuracy(classes=classes), rounding=rounding))
    return GraphVerdict(
        graph=graph,
        made_for=made_for,
        run_by=run_by,
        kept=accuracy.good or not bounds.enforced,
        reason=accuracy.reason,
        doubt=accuracy.doubt,
        headline=headline,
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
