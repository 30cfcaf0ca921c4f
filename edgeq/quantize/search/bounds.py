"""The bounds of the searches for layers; nothing heavy is imported for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["MAX_SHARE", "UNSEEN", "WORST", "RaceBounds", "SearchBounds"]

MAX_SHARE: Final = 15.0
"""Percent of the weighted layers' bytes that may stay in floating point, where nothing else is said."""

UNSEEN: Final = 3.0
"""Times the drop allowed on the images searched, that it may be on others, where nothing else is said."""

WORST: Final = 10
"""So many layers are measured more exactly than the others."""


@dataclass(frozen=True)
class SearchBounds:
    """What the network may lose, and what that may cost.

    Attributes:
        max_drop: points of the headline, such as top-1, on the images searched.
        max_unseen_drop: points that the 95 % limit of the drop may reach; None takes three times `max_drop`.
        max_share: percent of the weighted layers' bytes that may stay in floating point.
        min_speedup: times FP32's speed that has to be left at batch 1; None does not measure it.
    """

    max_drop: float
    max_unseen_drop: float | None = None
    max_share: float = MAX_SHARE
    min_speedup: float | None = None

    @property
    def unseen(self) -> float:
        """The limit of `max_unseen_drop`, whether it was given or not."""
        return UNSEEN * self.max_drop if self.max_unseen_drop is None else self.max_unseen_drop


@dataclass(frozen=True)
class RaceBounds:
    """When a layer has seen enough images: the standard error is at most this part of the figure.

    The error is that of the figure as an estimate of what all the images given would say: nothing once all were seen.

    Attributes:
        worst: for layers that may be among the ten worst, and whose place there is not certain.
        others: for all others, and for every gain of `released`, where it is a part of the INT8 network's error.
    """

    worst: float = 0.045
    others: float = 0.10
