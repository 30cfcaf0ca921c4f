"""A mean over things that come in items, and how sure it is; only sums are kept."""

from __future__ import annotations

import math

import numpy as np
from pydantic import BaseModel, ConfigDict

__all__ = ["Estimate", "Ratio", "wilson_limits"]


class Estimate(BaseModel):
    """A figure.

    Attributes:
        value: in the unit that its field names.
        standard_error: over the choice of items, in the same unit; None for a single item.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    standard_error: float | None

    def times(self, factor: float) -> Estimate:
        """The same in another unit, of which there are `factor` in the old one."""
        error = self.standard_error
        return Estimate(value=factor * self.value, standard_error=None if error is None else abs(factor) * error)

    def exponential(self) -> Estimate:
        """exp of it; the standard error by the delta method."""
        return Estimate(value=1.0, standard_error=self.standard_error).times(math.exp(self.value))


class Ratio:
    """The sum of one thing over the sum of another, item by item: errors over tokens, hits over questions.

    Tokens of one answer are not independent, so the standard error is that of a ratio of sums over items (Cochran,
    "Sampling Techniques", 6.4): the variance of above - ratio * below, over n mean(below)^2.
    """

    def __init__(self) -> None:
        self.items = 0
        self.above = 0.0
        self.below = 0.0
        self._squares = np.zeros(3)

    def add(self, above: float, below: float = 1.0) -> None:
        """One item's share of both sums; an item with nothing below does not count."""
        if below == 0.0:
            return
        self.items += 1
        self.above += above
        self.below += below
        self._squares += (above * above, above * below, below * below)

    def estimate(self) -> Estimate:
        """The ratio.

        Raises:
            ZeroDivisionError: no item was added.
        """
        ratio = self.above / self.below
        if self.items < 2:
            return Estimate(value=ratio, standard_error=None)
        residual = float(self._squares @ (1.0, -2.0 * ratio, ratio * ratio))
        spread = math.sqrt(max(residual, 0.0) * self.items / (self.items - 1))
        return Estimate(value=ratio, standard_error=spread / self.below)


def wilson_limits(share: float, count: int, z: float) -> tuple[float, float]:
    """Wilson's score interval (JASA 22, 1927) of a share of `count` items.

    Args:
        share: 0 to 1.
        count: of items, at least one.
        z: half of its width in standard errors.

    Returns:
        The limits, 0 to 1.
    """
    spread = z * z / count
    middle = (share + spread / 2.0) / (1.0 + spread)
    half = math.sqrt(share * (1.0 - share) * spread + spread * spread / 4.0) / (1.0 + spread)
    return max(middle - half, 0.0), min(middle + half, 1.0)
