"""All rules in one list, and which of them are asked for."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Final

from edgeq.errors import InputError
from edgeq.lint.base import Rule
from edgeq.lint.file_rules import FILE_RULES
from edgeq.lint.fusion_rules import FUSION_RULES
from edgeq.lint.pair_rules import PAIR_RULES
from edgeq.lint.range_rules import RANGE_RULES
from edgeq.lint.type_rules import TYPE_RULES

__all__ = ["RULES", "choose_rules"]

RULES: Final[tuple[Rule, ...]] = (*FILE_RULES, *PAIR_RULES, *FUSION_RULES, *TYPE_RULES, *RANGE_RULES)
"""By their numbers; a new rule is an entry in one of these."""


def choose_rules(select: Sequence[str] = (), ignore: Sequence[str] = ()) -> tuple[Rule, ...]:
    """The rules that are asked for.

    Args:
        select: numbers, beginnings of numbers (`TRT2`) or names; none are all.
        ignore: likewise, of those to leave out; it goes before `select`.

    Raises:
        InputError: one of them is no rule's.
    """
    wanted = {rule.number for word in select for rule in _named(word)} if select else {rule.number for rule in RULES}
    unwanted = {rule.number for word in ignore for rule in _named(word)}
    return tuple(rule for rule in RULES if rule.number in wanted - unwanted)


def _named(word: str) -> list[Rule]:
    found = [rule for rule in RULES if word and (rule.number.startswith(word.upper()) or rule.name == word.lower())]
    if not found:
        known = [name for rule in RULES for name in (rule.number, rule.name)]
        near = difflib.get_close_matches(word, known, n=3)
        raise InputError(
            f"no rule is called {word!r}",
            expected=f"{' or '.join(near)}" if near else "a number such as TRT101, the beginning of one, or a name",
            next_step="edgeq lint --list-rules",
        )
    return found
