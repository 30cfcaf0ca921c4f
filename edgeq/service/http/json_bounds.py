"""What a JSON body would cost to parse, from a scan of its bytes as they come: refused before anything is made of it.

The scan is a few passes of C over each piece, and remembers numbers alone: no object is made for an item. What it lets
through may still be no JSON.
"""

from __future__ import annotations

import re
from typing import Final

from edgeq.service.http.errors import RequestError

__all__ = ["MOST_DEPTH", "MOST_ITEMS", "MOST_TEXT_BYTES", "JsonBounds"]

MOST_ITEMS: Final = 20_000
"""Of commas, colons, arrays and objects each so many, in all of a body: items and keys."""

MOST_DEPTH: Final = 32
"""Arrays and objects within each other."""

MOST_TEXT_BYTES: Final = 700_000
"""Of a string that is no data URI: 100,000 characters, each as an escape, and a little."""

_MOST_QUOTES: Final = 4 * MOST_ITEMS + 2
_MOST_DIGITS: Final = 100
_DATA: Final = b"data:"

_BLANKS: Final = b" \t\r\n"
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_BETWEEN: Final = re.compile(rb"[\[\]{},:]")
_COUNTED: Final = ((b",", "items"), (b":", "keys"), (b"[", "arrays"), (b"]", "arrays"), (b"{", "objects"))


class JsonBounds:
    """Looks at a body, UTF-8, in pieces."""

    def __init__(self) -> None:
        self._quotes = 0
        self._counts = dict.fromkeys((sign for sign, _ in _COUNTED), 0)
        self._depth = 0
        self._digits = 0
        self._in_string = self._escaped = False
        self._text = 0
        self._begun = b""

    def feed(self, piece: bytes) -> None:
        """Look at the next piece.

        Raises:
            RequestError: 413 there are too many items, keys, arrays and objects, or a string or a number is too long,
                400 it is nested too deeply.
        """
        parts = self._unescaped(piece).split(b'"')
        self._quotes += len(parts) - 1
        if self._quotes > _MOST_QUOTES:
            raise _too_much("strings", 2 * MOST_ITEMS)
        begins_in_string = self._in_string
        for number, part in enumerate(parts):
            if number:
                self._in_string = not self._in_string
                self._text, self._begun = 0, b""
            if self._in_string:
                self._add_text(part)
        outside = b"".join(parts[begins_in_string::2]).translate(None, _BLANKS)
        if outside:
            self._add_structure(outside)

    def _unescaped(self, piece: bytes) -> bytes:
        """The same length without escapes, so that each quote begins or ends a string."""
        if self._escaped:
            piece = b"_" + piece[1:]
        if b"\\" not in piece:
            self._escaped = False
            return piece
        piece = piece.replace(b"\\\\", b"__")
        self._escaped = piece.endswith(b"\\")
        return piece.replace(b'\\"', b"__")

    def _add_text(self, part: bytes) -> None:
        if len(self._begun) < len(_DATA):
            self._begun += part[: len(_DATA) - len(self._begun)].lower()
        self._text += len(part)
        if self._text > MOST_TEXT_BYTES and self._begun != _DATA:
            raise RequestError(413, "body_too_large", f"a text has more than {MOST_TEXT_BYTES:,} bytes", close=True)

    def _add_structure(self, outside: bytes) -> None:
        """What is between strings, without blanks."""
        brackets = outside.translate(None, _NOT_BRACKETS)
        for bracket in brackets[: 4 * MOST_ITEMS]:
            self._depth += 1 if bracket in b"[{" else -1
            if self._depth > MOST_DEPTH:
                told = f"more than {MOST_DEPTH} arrays and objects are within each other"
                raise RequestError(400, "not_json", told, close=True)
        for sign, what in _COUNTED:
            self._counts[sign] += outside.count(sign)
            if self._counts[sign] > MOST_ITEMS:
                raise _too_much(what, MOST_ITEMS)
        first, *others = _BETWEEN.split(outside)
        longest = max(self._digits + len(first), *map(len, others), 0)
        self._digits = len(others[-1]) if others else self._digits + len(first)
        if longest > _MOST_DIGITS:
            raise RequestError(413, "body_too_large", f"a number has more than {_MOST_DIGITS} digits", close=True)


def _too_much(what: str, most: int) -> RequestError:
    return RequestError(413, "body_too_large", f"the body has more than {most:,} {what}", close=True)
