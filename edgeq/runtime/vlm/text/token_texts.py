"""The text and the bytes of single tokens."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from edgeq.runtime.vlm.stream import TokenLogprob

__all__ = ["TokenTexts"]

_UNFINISHED: Final = "\N{REPLACEMENT CHARACTER}"
_REMEMBERED: Final = 4096


class TokenTexts:
    """What each token of a tokenizer stands for.

    Args:
        tokenizer: transformers'.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._before = [*tokenizer("a", add_special_tokens=False)["input_ids"]]
        self._start = len(tokenizer.decode(self._before))
        self._of = lru_cache(_REMEMBERED)(self._made)

    def logprob(self, token: int, value: float) -> TokenLogprob:
        """A token with the logarithm of its chance."""
        text, data = self._of(token)
        return TokenLogprob(text, data, value)

    def _made(self, token: int) -> tuple[str, bytes]:
        """Decoded behind a letter, so that a space at its beginning is not left out as that of a text."""
        text: str = self._tokenizer.decode([*self._before, token])[self._start :]
        if _UNFINISHED not in text:
            return text, text.encode()
        return text, _bytes_of(str(self._tokenizer.convert_ids_to_tokens(token))) or text.encode()


def _bytes_of(name: str) -> bytes | None:
    """The bytes of a token that is a part of a character; None for a name of no known kind."""
    if name.startswith("<0x") and name.endswith(">"):  # byte fallback, as SentencePiece writes it
        return bytes.fromhex(name[3:-1])
    known = _byte_letters()
    return bytes(known[letter] for letter in name) if all(letter in known for letter in name) else None


@lru_cache(1)
def _byte_letters() -> Mapping[str, int]:
    """By letter, the byte that it stands for in byte-level BPE (Radford et al. 2019, `bytes_to_unicode` of GPT-2)."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("\u00a1"), ord("\u00ac") + 1), *range(ord("\u00ae"), 256)]
    hidden = [number for number in range(256) if number not in shown]
    return {chr(number): number for number in shown} | {chr(256 + at): number for at, number in enumerate(hidden)}
