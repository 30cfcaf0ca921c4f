"""From tokens to text as it grows, and texts that end an answer. What is not sure yet is held back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

__all__ = ["AnswerText"]

_UNFINISHED: Final = "\N{REPLACEMENT CHARACTER}"


class AnswerText:
    """One answer's text.

    All pieces that `add` and `end` return make the text together: without special tokens, without spaces around it, and
    without the stop string and what comes behind it. A piece is held back while it could be the beginning of a stop
    string, of a character of several tokens, or of the spaces at the end.

    Args:
        tokenizer: transformers' tokenizer.
        stop: texts that end the answer.

    Attributes:
        stopped: a stop string was found.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._ids: list[int] = []
        self._told, self._shown = 0, ""
        self._pending = ""
        self._begun = self.stopped = False

    def add(self, token_id: int) -> str:
        """The text that one more token makes sure; often empty."""
        if self.stopped:
            return ""
        self._pending += self._decode(token_id)
        found = [index for text in self._stop if (index := self._pending.find(text)) >= 0]
        if found:
            self.stopped = True
            self._pending = self._pending[: min(found)]
            return self.end()
        return self._release(len(self._pending) - self._doubtful())

    def end(self) -> str:
        """The text that was held back, once no more tokens come."""
        if not self.stopped:
            self._pending += self._text()[len(self._shown) :]
        return self._release(len(self._pending))

    def _release(self, count: int) -> str:
        """Take `count` characters of what is pending, as far as they are not spaces around the text."""
        sure = self._pending[:count].rstrip()
        self._pending = self._pending[len(sure) :]
        if not self._begun:
            sure = sure.lstrip()
            self._begun = bool(sure)
        return sure

    def _doubtful(self) -> int:
        """The length of the longest end of what is pending that a stop string begins with."""
        pending = self._pending
        longest = min(max((len(text) for text in self._stop), default=0), len(pending) + 1)
        for length in range(longest - 1, 0, -1):
            if any(text.startswith(pending[-length:]) for text in self._stop):
                return length
        return 0

    def _decode(self, token_id: int) -> str:
        """What a token adds to the text.

        Its text depends on the few tokens before it (spaces, characters of several tokens). So it is decoded together
        with those that made the last piece of text, and only the difference counts.
        """
        self._ids.append(token_id)
        text = self._text()
        added = "" if text.endswith(_UNFINISHED) else text[len(self._shown) :]
        if added:
            self._ids = self._ids[self._told :]
            self._told, self._shown = len(self._ids), self._text()
        return added

    def _text(self) -> str:
        text: str = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        return text
