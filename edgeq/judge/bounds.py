"""What is demanded of a target where nobody says otherwise, and the seed of the sight test."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict

__all__ = ["DEFAULT_JUDGE_BOUNDS", "DEFAULT_SEED", "JudgeBounds"]

DEFAULT_SEED: Final = 7_000_000
"""Beyond every seed that the demo's networks were trained and judged on."""


class JudgeBounds(BaseModel):
    """What is demanded.

    Attributes:
        max_drop: right answers that may be lost, in points.
        min_agreement: where nobody knows what is right: percent of the reference's answers, at least.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_drop: float = 5.0
    min_agreement: float = 80.0


DEFAULT_JUDGE_BOUNDS: Final = JudgeBounds()
