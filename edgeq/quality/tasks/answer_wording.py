"""Whether an answer says what it should, as far as that can be told from its words."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["found_terms", "same_wording"]


def same_wording(answer: str, reference: str) -> bool:
    """Whether two answers are equal but for case, spaces and a final full stop."""
    return _plain(answer).removesuffix(".").rstrip() == _plain(reference).removesuffix(".").rstrip()


def found_terms(answer: str, terms: Sequence[str]) -> int:
    """How many of `terms` are in an answer, as whole words; case and the number of spaces do not count.

    "crack" is in "a crack, long" and not in "cracked".
    """
    text = _plain(answer)
    return sum(re.search(rf"(?<!\w){re.escape(_plain(term))}(?!\w)", text) is not None for term in terms)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
