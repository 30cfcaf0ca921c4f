"""Whether a text encoder in INT8 is kept: a decision on figures alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from edgeq.artifact import Artifact
from edgeq.errors import InputError
from edgeq.quality.tasks.base import Headline
from edgeq.quality.tasks.recall import Z
from edgeq.quality.tasks.retrieval_figures import Direction, Drop, Recall, RetrievalFigures

__all__ = ["DEFAULT_RETRIEVAL_BOUNDS", "MAX_RECALL_DROP", "RetrievalBounds", "RetrievalGate", "decide_retrieval"]

MAX_RECALL_DROP: Final = 0.5
"""Points of recall@1 from text to image; INT8 must lose less."""

_LIMIT: Final = 3.0
"""Times the bound of the drop, for its upper limit."""


@dataclass(frozen=True)
class RetrievalBounds:
    """What is demanded of an INT8 text encoder.

    Attributes:
        max_drop: recall@1 from text to image loses less than so many points, and the upper end of the drop's interval
            is below three times that.

    Raises:
        InputError: `max_drop` is not above 0.
    """

    max_drop: float = MAX_RECALL_DROP

    def __post_init__(self) -> None:
        """Raises InputError where the bound cannot be used."""
        if not 0.0 < self.max_drop < 100.0:
            raise InputError(f"a drop of less than {self.max_drop:g} points is demanded", expected="above 0, below 100")

    @property
    def max_high(self) -> float:
        """Points that the upper end of the drop's interval must be below."""
        return _LIMIT * self.max_drop


DEFAULT_RETRIEVAL_BOUNDS: Final = RetrievalBounds()


class RetrievalGate(Artifact):
    """Whether the INT8 text encoder is kept, and on what figures.

    Attributes:
        kept: what the bundle reads texts with. INT8 only where it was shown to be within the bounds.
        judged: whether the figures say enough. They do not where the drop is within its bound, and only the number of
            queries leaves it open whether its upper end is; nor where the reference itself finds so little that a
            text encoder which finds nothing would be within the bound.
        reasons: a sentence on the drop and one on what it rests on.
        objections: those of them that speak against INT8; empty where it was kept.
        queries_needed: about how many would show it, where this drop and its spread stay as they are; None where they
            were enough, or where more of them would not help, or nothing is known of their spread.
        max_drop, max_high: the bounds, in points.
        figures: that were held against them.
    """

    otherwise = "holds no decision on a text encoder"
    made_by = "edgeq prepare"

    version: Literal["edgeq.retrieval-gate/1"] = "edgeq.retrieval-gate/1"
    kept: Literal["int8", "floating point"]
    judged: bool
    reasons: tuple[str, ...]
    objections: tuple[str, ...]
    queries_needed: int | None
    max_drop: float
    max_high: float
    figures: RetrievalFigures

    @property
    def passed(self) -> bool:
        """Whether INT8 was kept."""
        return self.kept == "int8"

    @property
    def headline(self) -> Headline:
        """The one figure that decided."""
        return self.figures.headline()


def decide_retrieval(figures: RetrievalFigures, bounds: RetrievalBounds = DEFAULT_RETRIEVAL_BOUNDS) -> RetrievalGate:
    """Hold the figures against the bounds."""
    found, queries = figures.text_to_image.at1, figures.text_to_image.queries
    drop = found.drop
    small, sure = drop.value < bounds.max_drop, drop.high < bounds.max_high
    blind = found.reference < bounds.max_drop
    needed = None if sure or blind or not small else _needed(figures.text_to_image, bounds)
    checks = (
        (small, _drop_reason(figures, bounds)),
        (False, _blind_reason(found, queries)) if blind else (sure, _doubt_reason(drop, bounds, needed)),
    )
    objections = tuple(reason for good, reason in checks if not good)
    return RetrievalGate(
        kept="floating point" if objections else "int8",
        judged=not blind and (sure or not small),
        reasons=tuple(reason for _, reason in checks),
        objections=objections,
        queries_needed=needed,
        max_drop=bounds.max_drop,
        max_high=bounds.max_high,
        figures=figures,
    )


def _drop_reason(figures: RetrievalFigures, bounds: RetrievalBounds) -> str:
    headline = figures.headline()
    return (
        f"{headline.name} drops by {headline.drop:.2f}{headline.doubt} points on {headline.examples} texts, "
        f"less than {bounds.max_drop:g} is demanded"
    )


def _doubt_reason(drop: Drop, bounds: RetrievalBounds, needed: int | None) -> str:
    limit = f"with 95 % the drop is between {drop.low:.2f} and {drop.high:.2f} points, less than {bounds.max_high:g}"
    if drop.high < bounds.max_high or drop.value >= bounds.max_drop:
        return f"{limit} is demanded"
    if needed is None:
        return f"not judged: {limit} cannot be shown with texts that all hang together"
    return f"not judged: {limit} takes about {needed:,} texts to show"


def _blind_reason(found: Recall, queries: int) -> str:
    return (
        f"not judged: the reference itself puts a right image first for {found.reference:.2f} % of {queries} texts, "
        "and one that never does loses no more than that"
    )


def _needed(way: Direction, bounds: RetrievalBounds) -> int | None:
    """About how many queries bring the upper limit below its bound; None for a single group, which has no spread.

    With n queries of standard error s and N asked for, the interval's variance is about s^2 n / N + 2 (100 size / N)^2,
    the second part from the two groups that are added.
    """
    drop = way.at1.drop
    if drop.standard_error is None:
        return None
    scale = (Z / (bounds.max_high - drop.value)) ** 2
    spread = drop.standard_error**2 * way.queries * scale
    added = 2.0 * (100.0 * way.group_size) ** 2 * scale
    return max(math.ceil(spread / 2.0 + math.sqrt(spread**2 / 4.0 + added)), way.queries + 1)
