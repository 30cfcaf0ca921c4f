"""What a user writes stays text, also where it spells a token that steers the model, such as `</s>` or `<image>`.

A chat template writes such tokens as text, and so might a user. Where a user does, a mark is put behind the first
character of the name before the template is filled in; the tokenizer is then given a token in its place that the
prompt does not have, and the ids of that one are left out. So the text is cut there, as at any token, and nothing of
it is changed or lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, Final

from edgeq.errors import InputError

__all__ = ["ControlTokens"]

_MARK: Final = "\U0010ffff"
"""A code point that is no character and never will be (Unicode, section 23.7)."""

_PUT_BY_ITSELF: Final = ("bos_token", "eos_token", "cls_token", "sep_token", "unk_token")
"""Attributes of a tokenizer: tokens that come into ids without standing in the text."""


class ControlTokens:
    """The tokens of a tokenizer that no user may write.

    Args:
        tokenizer: transformers'.
        names: more of them, as text: those that stand for an image.
    """

    def __init__(self, tokenizer: Any, names: Iterable[str]) -> None:
        added = {number: token for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        known = {*names, *tokenizer.all_special_tokens, *(token.content for token in added.values())}
        self._tokenizer = tokenizer
        self._names = frozenset(name for name in known if len(name) > 1)
        self._lengths = sorted({len(name) for name in self._names})
        self._starts = re.compile("|".join(sorted({re.escape(name[0]) for name in self._names})) or r"(?!)")
        taken = {getattr(tokenizer, attribute, None) for attribute in _PUT_BY_ITSELF}
        self._cuts = tuple(
            (token.content, number)
            for number, token in added.items()
            if token.content not in taken and not (token.lstrip or token.rstrip or token.single_word)
        )

    def plain(self, text: str) -> str:
        """A user's text, with a mark in each name of a control token, for a chat template and then for `ids`."""
        text = text.replace(_MARK, "")
        marks = [found.start() + 1 for found in self._starts.finditer(text) if self._is_name(text, found.start())]
        bounds = [0, *marks, len(text)]
        return _MARK.join(text[start:end] for start, end in pairwise(bounds))

    def ids(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a prompt, [n].

        Args:
            text: the whole prompt, its users' texts from `plain`.
            add_special_tokens: let the tokenizer put its own around it.

        Raises:
            InputError: the tokenizer has no token that could cut a user's text.
        """
        cut, number = ("", -1) if _MARK not in text else self._cut(text)
        found = self._tokenizer(text.replace(_MARK, cut), add_special_tokens=add_special_tokens, verbose=False)
        return [id for id in found["input_ids"] if id != number]

    def _is_name(self, text: str, start: int) -> bool:
        return any(text[start : start + length] in self._names for length in self._lengths)

    def _cut(self, text: str) -> tuple[str, int]:
        """A token that the text does not have, and its id."""
        for name, number in self._cuts:
            if name not in text:
                return name, number
        raise InputError("a message has the name of a control token in it", next_step="leave it out")
