"""What many runs took: percentiles, and how sure the median is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Final

from pydantic import BaseModel, ConfigDict

__all__ = ["Times", "times_of"]

_ENOUGH_FOR_P90: Final = 10
_ENOUGH_FOR_P99: Final = 100
_EACH_SIDE: Final = 0.025
_EXACT: Final = 1000
_NORMAL: Final = 1.96


class Times(BaseModel):
    """Milliseconds of some runs.

    Attributes:
        runs: that were timed, after others to warm up.
        p50_ms: the median.
        p90_ms, p99_ms: 90 and 99 of 100 runs took no longer, by nearest rank; None for fewer than 10 and 100 runs.
        low_ms, high_ms: two of the runs, between which the median of ever so many lies with 95 % confidence; None for
            fewer than six runs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    runs: int
    p50_ms: float
    p90_ms: float | None
    p99_ms: float | None
    low_ms: float | None
    high_ms: float | None


def times_of(seconds: Sequence[float]) -> Times:
    """Percentiles of the seconds that runs took; one run at least."""
    ranked = [1e3 * each for each in sorted(seconds)]
    count, outer = len(ranked), _outer_rank(len(ranked))
    return Times(
        runs=count,
        p50_ms=statistics.median(ranked),
        p90_ms=ranked[math.ceil(0.90 * count) - 1] if count >= _ENOUGH_FOR_P90 else None,
        p99_ms=ranked[math.ceil(0.99 * count) - 1] if count >= _ENOUGH_FOR_P99 else None,
        low_ms=ranked[outer - 1] if outer else None,
        high_ms=ranked[count - outer] if outer else None,
    )


def _outer_rank(count: int) -> int:
    """The rank of the run that is below the median of all with 97.5 % confidence; 0 where no run is.

    Each run is below that median with a chance of a half: a binomial distribution, beyond a thousand runs a normal one.
    """
    if count > _EXACT:
        return math.floor((count - _NORMAL * math.sqrt(count)) / 2)
    below, rank = 0, 0
    while (below := below + math.comb(count, rank)) <= _EACH_SIDE * 2**count:
        rank += 1
    return rank
