"""Captions to calibrate a text encoder on: a text file with one in each line, or JSON lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from edgeq.errors import CalibrationError
from edgeq.files import open_plain

__all__ = ["MAX_CAPTIONS_BYTES", "read_captions"]

MAX_CAPTIONS_BYTES: Final = 64 << 20
_MOST_CHARACTERS: Final = 20_000


def read_captions(path: Path) -> tuple[str, ...]:
    """Each caption once, in the order of the file.

    Args:
        path: `.jsonl`, each line an object with `caption`, a text, or `captions`, a list of texts, such as the pairs
            that a model is judged by; any other name is a text file with a caption in each line.

    Raises:
        CalibrationError: the file cannot be read, is longer than 64 MiB, is not UTF-8, has a line that is no such
            object, or a caption of more than 20,000 characters, or it has none. It names the line.
    """
    text = _text(path)
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    found: dict[str, None] = {}
    for number, line in lines:
        for caption in _of_object(path, number, line) if path.suffix == ".jsonl" else [line]:
            if len(caption) > _MOST_CHARACTERS:
                raise CalibrationError(
                    f"{path}, line {number} has a caption of {len(caption):,} characters",
                    expected=f"at most {_MOST_CHARACTERS:,}",
                )
            found[caption] = None
    if not found:
        raise CalibrationError(f"{path} has no captions", expected="texts like those that will be searched for")
    return tuple(found)


def _text(path: Path) -> str:
    try:
        with open_plain(path) as file:
            data = file.read(MAX_CAPTIONS_BYTES + 1)
    except OSError as error:
        raise CalibrationError(
            f"{path} cannot be read: {error.strerror or error}", expected="a text file or JSON lines of captions"
        ) from error
    if len(data) > MAX_CAPTIONS_BYTES:
        raise CalibrationError(f"{path} is too long for captions", expected=f"at most {MAX_CAPTIONS_BYTES:,} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CalibrationError(f"{path} is not UTF-8: byte {error.start:,}", expected="captions in UTF-8") from error


def _of_object(path: Path, number: int, line: str) -> list[str]:
    """The captions of a line of JSON."""
    try:
        entry: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CalibrationError(f"{path}, line {number} is not JSON: {error}") from error
    given = entry.get("captions", [entry.get("caption")]) if isinstance(entry, dict) else None
    if not isinstance(given, list) or not all(isinstance(one, str) and one.strip() for one in given):
        raise CalibrationError(
            f"{path}, line {number} has no captions",
            expected='{"caption": "..."} or {"captions": ["...", ...]}, none of them empty',
        )
    return [one.strip() for one in given]
