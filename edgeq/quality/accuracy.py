"""What figures say of accuracy against a bound: is more lost than is allowed, and could it be the luck of few images?

The drop is a difference of paired proportions, so its limits are those of Bonett and Price ("Adjusted Wald confidence
interval for a difference of binomial proportions based on paired data", 2012): one image that only FP32 gets right and
one that only the candidate gets right are added. Without that, a few images that all agree would be sure of no loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from edgeq.quality.tasks.base import Headline

__all__ = ["ONE_SIDED_95", "Accuracy", "AccuracyBounds", "drop_limits", "images_needed", "judge_accuracy"]

ONE_SIDED_95: Final = 1.645
"""Standard errors up to the limit that a normal variable stays under with 95 %."""

_ADDED: Final = 2
"""Images that are added: one lost, one won."""


@dataclass(frozen=True)
class AccuracyBounds:
    """What may be lost.

    Attributes:
        max_drop: points of the headline, where there are labelled images.
        max_spread: error of the answers against what tells images apart, where there are none.
        max_error: error of the answers against their length, as well.
        rounding: error of the answers against their length that is the number format's own, FP16's: images that are
            told apart by less than that are no objection. 0 for INT8.
    """

    max_drop: float
    max_spread: float
    max_error: float
    rounding: float = 0.0


@dataclass(frozen=True)
class Accuracy:
    """What figures say.

    Attributes:
        good: they do not show that more is lost than is allowed.
        reason: what was measured, and what is allowed, in a sentence.
        doubt: why good figures do not show that it is within the bound, in a sentence; empty where they do.
    """

    good: bool
    reason: str
    doubt: str = ""


def judge_accuracy(headline: Headline | None, bounds: AccuracyBounds) -> Accuracy:
    """Hold the figure that decides against the bounds; None, where nothing was compared, is no objection."""
    if headline is None:
        return Accuracy(good=True, reason="its answers were not judged")
    return _labelled(headline, bounds.max_drop) if headline.labelled else _unlabelled(headline, bounds)


def drop_limits(headline: Headline, sure: float = ONE_SIDED_95) -> tuple[float, float]:
    """What the drop is above, and what it is below, each with 95 %, in points; the drop itself if its error is unknown.

    Args:
        headline: on labelled images.
        sure: standard errors up to the limits.
    """
    if headline.standard_error is None:
        return headline.drop, headline.drop
    images, drop = headline.examples, headline.drop / 100.0
    other = images * (images * (headline.standard_error / 100.0) ** 2 + drop**2)  # images that one alone gets right
    share, mean = (other + _ADDED) / (images + _ADDED), drop * images / (images + _ADDED)
    error = math.sqrt(max(share - mean**2, 0.0) / (images + _ADDED))
    return 100.0 * (mean - sure * error), 100.0 * (mean + sure * error)


def images_needed(headline: Headline, max_drop: float, sure: float = ONE_SIDED_95) -> int | None:
    """About how many images would show that the drop is within its bound, if it and its spread stay as they are.

    With n images of standard error s and N asked for, the square of the error is about s^2 n / N + 2 (100 / N)^2, the
    second part from the images that are added.

    Args:
        headline: on labelled images.
        max_drop: in points.
        sure: standard errors up to the limit.

    Returns:
        None where the drop is at the bound or above, or its error is not known.
    """
    room = max_drop - headline.drop
    if room <= 0.0 or headline.standard_error is None:
        return None
    scale = (sure / room) ** 2
    spread, added = headline.standard_error**2 * headline.examples * scale, _ADDED * 100.0**2 * scale
    return max(math.ceil(spread / 2.0 + math.sqrt(spread**2 / 4.0 + added)), headline.examples + 1)


def _labelled(headline: Headline, max_drop: float) -> Accuracy:
    reason = (
        f"{headline.name} drops by {headline.drop:.2f}{headline.doubt} {headline.unit} on {headline.examples} images, "
        f"at most {max_drop:g} is allowed"
    )
    low, high = drop_limits(headline)
    if headline.drop > max_drop and low > 0.0:
        return Accuracy(good=False, reason=reason)
    if headline.drop > max_drop:
        reason = f"{reason}, and it may be the luck of so few"
    return Accuracy(good=True, reason=reason, doubt="" if high <= max_drop else _doubt(headline, high, max_drop))


def _doubt(headline: Headline, high: float, max_drop: float) -> str:
    needed = images_needed(headline, max_drop)
    more = "more images would tell" if needed is None else f"about {_rounded(needed):,} would, if it stays as it is"
    return (
        f"{headline.examples} images do not show that {headline.name} drops by at most {max_drop:g} {headline.unit}: "
        f"measured are {headline.drop:.2f}, with 95 % it is below {high:.1f}; {more}"
    )


def _rounded(count: int) -> int:
    """Up to two digits that count."""
    unit = int(10 ** max(len(str(count)) - 2, 0))
    return -(-count // unit) * unit


def _unlabelled(headline: Headline, bounds: AccuracyBounds) -> Accuracy:
    allowed = bounds.max_error if headline.allowed is None else headline.allowed
    spread, near = headline.spread, headline.drop <= allowed
    begin = f"without labelled images accuracy was not judged; the answers to {headline.examples} images differ by"
    if spread is None or not near:
        reason = f"{begin} {headline.drop:.1%} {headline.unit}, at most {allowed:.0%} is allowed"
        alike = near and headline.spread is None and headline.allowed is None
        doubt = "FP32 gives all images the same answer, so what INT8 loses was not seen" if alike else ""
        return Accuracy(good=near, reason=reason, doubt=doubt)
    reason = f"{begin} {spread:.1%} of what tells images apart, at most {bounds.max_spread:.0%} is allowed"
    if spread > bounds.max_spread and headline.drop <= bounds.rounding:
        doubt = "FP32 tells these images apart by less than FP16 rounds, so what is lost was not seen"
        return Accuracy(good=True, reason=f"{reason}; it is rounding, {headline.drop:.2%} of their length", doubt=doubt)
    return Accuracy(good=spread <= bounds.max_spread, reason=reason)
