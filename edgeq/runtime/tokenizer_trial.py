"""A first look at a `tokenizer.json` that nobody vouches for, in a child with limits.

Normalizers may replace one character by many, one after another, so that a word becomes gigabytes; a pattern may try
for ever. Both are looked for before a tokenizer is loaded in this process.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from edgeq.confined.limits import Limits, Made
from edgeq.confined.worker import run_confined
from edgeq.errors import ModelError
from edgeq.files import sha256_file

__all__ = ["MOST_GROWTH", "try_tokenizer"]

MOST_GROWTH: Final = 100
"""How many times as long as a text normalizers, or decoders, may make it; published ones stay below 10."""

_LONGEST_PREFIX: Final = 100
_MOST_DEPTH: Final = 64
_LIMITS: Final = Limits(seconds=60, memory_bytes=2 << 30)
_TEXTS: Final = (
    "a photo of a crack, 3 mm wide.\n",
    "".join(map(chr, range(0x20, 0x250))) + "東京 одна ａ ﬃ \u0345 ﷺ",
    *(letter * 2000 for letter in "a 0.-\n"),
)
"""A sentence, one of each letter, and long runs, which patterns that try again and again do not end on."""
_PASSED: Final[set[tuple[str, Limits]]] = set()
"""Digests of what this process has seen pass, with the limits: a bundle's making opens its tokenizer several times."""


def try_tokenizer(file: Path, *, limits: Limits = _LIMITS) -> None:
    """Load a tokenizer and take some texts apart, in a child; once for the same bytes and limits.

    What goes wrong but for its costs is left to those who load it in earnest: they say it better.

    Args:
        file: `tokenizer.json`; one that is not there is no fault.
        limits: of the look.

    Raises:
        LimitError: it takes more time or memory, or it ends the child.
        ModelError: its normalizers or decoders make a text longer than MOST_GROWTH times.
    """
    if not file.is_file():
        return
    try:
        seen = (sha256_file(file), limits)
    except OSError:  # who loads it says so
        return
    if seen not in _PASSED:
        plain = {"path": str(file.resolve())}
        run_confined(f"{__name__}:look", plain, limits=limits, what=str(file), modules=["tokenizers"])
        _PASSED.add(seen)


def look(plain: Mapping[str, Any], _data: bytearray) -> Made:
    """Called in the child; raises ModelError where a part lets texts grow."""
    from tokenizers import Tokenizer

    path = Path(plain["path"])
    try:
        said = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return Made({})
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        if isinstance(said, dict) and (found := growth(said.get(part))) > MOST_GROWTH:
            raise ModelError(
                f"{path}: its {part} makes a text {found:,.0f} times as long",
                expected=f"at most {MOST_GROWTH} times",
                next_step="take tokenizer.json as it came with the model",
            )
    try:
        tokenizer = Tokenizer.from_file(str(path))
        for text in _TEXTS:
            tokenizer.decode(tokenizer.encode(text).ids)
    except MemoryError:
        raise
    except Exception:  # tokenizers raises Exception itself; what loads it later says it
        return Made({})
    return Made({})


def growth(part: Any) -> float:
    """How many times as long a part of a tokenizer may make a text: steps one after another multiply."""
    found = 1.0
    for step in _steps(part, 0):
        content = step.get("content")
        if step.get("type") == "Replace" and isinstance(content, str) and content:
            pattern = step.get("pattern")
            plain = pattern.get("String") if isinstance(pattern, dict) else None
            # a pattern may match nothing at all, between any two letters
            found *= max(1.0, len(content) / len(plain)) if isinstance(plain, str) and plain else len(content) + 1
        elif step.get("type") == "Prepend" and len(str(step.get("prepend", ""))) > _LONGEST_PREFIX:
            found *= len(str(step["prepend"]))
        found = min(found, 1e300)
    return found


def _steps(part: Any, depth: int) -> Iterator[Mapping[str, Any]]:
    """The steps of a part, those within a Sequence one after another."""
    if not isinstance(part, dict) or depth > _MOST_DEPTH:
        return
    yield part
    for several in part.values():
        if isinstance(several, list):
            for step in several:
                yield from _steps(step, depth + 1)
