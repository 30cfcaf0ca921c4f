"""Figures and untrusted texts in words."""

from __future__ import annotations

from typing import Final

__all__ = ["LONGEST", "Z_95", "confidence", "in_bytes", "shown"]

LONGEST: Final = 2000
"""Characters of one text that are shown."""

Z_95: Final = 1.959964
"""Standard errors to either side that hold 95 % of a normal distribution."""


def in_bytes(count: int) -> str:
    """A number of bytes, in units of 10^3, 10^6 or 10^9."""
    if abs(count) >= 1e9:
        return f"{count / 1e9:,.2f} GB"
    return f"{count / 1e6:,.2f} MB" if abs(count) >= 1e5 else f"{count / 1e3:,.1f} kB"


def confidence(value: float, standard_error: float | None, unit: str) -> str:
    """A figure with its 95 % interval, where its standard error is known.

    Args:
        value: the figure.
        standard_error: in the same unit; None where it is not known.
        unit: of both.
    """
    if standard_error is None:
        return f"{value:.2f} {unit}"
    low, high = value - Z_95 * standard_error, value + Z_95 * standard_error
    return f"{value:.2f} {unit} (95 %: {low:.2f} to {high:.2f})"


def shown(text: str, most: int = LONGEST) -> str:
    """A text that somebody else wrote, as it may stand in a page: bounded, on one line, nothing in it invisible.

    Characters that cannot be seen, such as those that turn the direction of writing, are told by their numbers.
    """
    cut = text[:most]
    plain = "".join(each if each.isprintable() else " " if each.isspace() else _named(each) for each in cut)
    return f"{plain} … ({len(text) - most:,} more characters)" if len(text) > most else plain


def _named(character: str) -> str:
    return f"\\u{ord(character):04x}"
