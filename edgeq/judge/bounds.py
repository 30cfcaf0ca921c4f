"""What is demanded of a target where nobody says otherwise, and the seed of the sight test."""

from __future__ import annotations

from statistics import NormalDist
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["DEFAULT_JUDGE_BOUNDS", "DEFAULT_SEED", "MOST_LOOKS", "JudgeBounds"]

MOST_LOOKS: Final = 20
_DOUBT: Final = 0.05

DEFAULT_SEED: Final = 7_000_000
"""Beyond every seed that the demo's networks were trained and judged on."""


class JudgeBounds(BaseModel):
    """What is demanded.

    Attributes:
        max_drop: right answers that may be lost, in points.
        min_agreement: where nobody knows what is right: percent of the reference's answers, at least.
        looks: so often the verdict is looked at, the last time when all is asked. Each has an equal part of the doubt
            of 5 % (Bonferroni), so that the one that it ends at is wrong in 5 % of cases at the most.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_drop: float = 5.0
    min_agreement: float = 80.0
    looks: int = Field(default=1, ge=1, le=MOST_LOOKS)

    @property
    def sure(self) -> float:
        """Standard errors up to the limit that a normal variable stays under at every look, with 95 %."""
        return NormalDist().inv_cdf(1.0 - _DOUBT / self.looks)

    @property
    def certainty(self) -> str:
        """How sure the limits are, in words."""
        return "with 95 %" if self.looks == 1 else f"with 95 % over {self.looks} looks"


DEFAULT_JUDGE_BOUNDS: Final = JudgeBounds()
