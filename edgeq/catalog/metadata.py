"""What is known of each image beside its vector: its own facts, its caption, and what a JSON file beside it says."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from edgeq.catalog.arrow import Columns
from edgeq.catalog.items import CAPTION_SUFFIX, JSON_SUFFIX, Item
from edgeq.catalog.sources import Sources
from edgeq.errors import ImageError

__all__ = ["OWN", "Texts", "as_columns", "read_texts"]

MAX_CAPTION_BYTES: Final = 64 << 10
MAX_JSON_BYTES: Final = 1 << 20
MAX_FIELDS: Final = 200
"""Fields that are taken of one JSON file, and columns that a shard has beside its own."""

MAX_FIELD_NAME: Final = 100

OWN: Final = {
    "image_path": "text",
    "key": "text",
    "caption": "text",
    "width": "whole",
    "height": "whole",
    "bytes": "whole",
}
"""The columns that every shard has; a JSON field of the same name does not replace them."""

_LARGEST: Final = 2**63

Value = str | int | float | None


@dataclass(frozen=True)
class Texts:
    """What lies beside an image.

    Attributes:
        caption: of the text file, else of the JSON file.
        fields: of the JSON file, those of OWN left out.
        unreadable: files that could not be used.
    """

    caption: str | None
    fields: Mapping[str, Value]
    unreadable: int


def read_texts(sources: Sources, item: Item) -> Texts:
    """The caption and the JSON fields of an image; a file that cannot be used is counted, and is no error."""
    unreadable, caption, fields = 0, None, dict[str, Value]()
    try:
        data = sources.beside(item, CAPTION_SUFFIX, MAX_CAPTION_BYTES)
        caption = None if data is None else data.decode("utf-8-sig").strip()
    except (ImageError, UnicodeDecodeError):
        unreadable += 1
    try:
        data = sources.beside(item, JSON_SUFFIX, MAX_JSON_BYTES)
        fields = {} if data is None else _fields(data)
    except (ImageError, ValueError, RecursionError):
        unreadable += 1
    said = fields.pop("caption", None)
    if caption is None and isinstance(said, str):
        caption = said.strip()
    return Texts(caption, {name: value for name, value in fields.items() if name not in OWN}, unreadable)


def _fields(data: bytes) -> dict[str, Value]:
    """The fields of a JSON object as text and numbers; raises ValueError where it is none, or has too many."""
    found = json.loads(data.decode("utf-8-sig"))
    if not isinstance(found, dict) or len(found) > MAX_FIELDS:
        raise ValueError(f"expected a JSON object of at most {MAX_FIELDS} fields")
    return {_text(name): _value(value) for name, value in found.items() if 0 < len(name) <= MAX_FIELD_NAME}


def _value(value: Any) -> Value:
    """A field as text or a number; what is neither is its JSON text."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, float) or (isinstance(value, int) and abs(value) < _LARGEST):
        return value
    return _text(json.dumps(value, ensure_ascii=False))


def _text(value: str) -> str:
    """A text that can be written as UTF-8: a JSON text may hold half of a character."""
    return value.encode("utf-8", "replace").decode()


def as_columns(rows: Sequence[Mapping[str, Value]]) -> Columns:
    """Rows as columns: those of OWN, then the others by name, at most MAX_FIELDS of them.

    Another column is one of whole numbers where all its values are, of numbers where all are numbers, else of text. A
    column without a value is left out.
    """
    others = sorted({name for row in rows for name, value in row.items() if value is not None} - OWN.keys())
    columns: Columns = {name: (kind, [row.get(name) for row in rows]) for name, kind in OWN.items()}
    for name in others[:MAX_FIELDS]:
        columns[name] = _column([row.get(name) for row in rows])
    return columns


def _column(values: list[Value]) -> tuple[str, list[Value]]:
    kinds = {bool if isinstance(value, bool) else type(value) for value in values if value is not None}
    if kinds <= {int, bool}:
        return "whole", [None if value is None else int(value) for value in values]
    if kinds <= {int, bool, float}:
        return "real", [None if value is None else float(value) for value in values]
    return "text", [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
