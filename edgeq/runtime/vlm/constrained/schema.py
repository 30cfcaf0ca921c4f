"""JSON schemas as requests bring them: bounded before anything is made of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from edgeq.errors import InputError

__all__ = ["ANY_OBJECT", "SchemaError", "schema_text"]

ANY_OBJECT: Final[Mapping[str, Any]] = {"type": "object"}
"""The schema of any JSON object."""

_MOST_CHARACTERS: Final = 32_000
_DEEPEST: Final = 24
_MOST_VALUES: Final = 4_000
_MOST_PROPERTIES: Final = 500
_LONGEST_NAME: Final = 500
_LONGEST_PATTERN: Final = 500
_LARGEST_MULTIPLE: Final = 1_000
"""The automaton of multiples of n has n states for each place of a number."""


class SchemaError(InputError):
    """An answer cannot be held to a JSON schema."""


def schema_text(schema: Mapping[str, Any]) -> str:
    """A schema as JSON text.

    Args:
        schema: what `json` reads: objects with texts for keys, lists, texts, numbers, true, false and null.

    Raises:
        SchemaError: it is longer, deeper, or has more properties than are taken.
    """
    properties = 0
    for values, (depth, value) in enumerate(_walk(schema), start=1):
        if depth > _DEEPEST:
            raise _too("nested deeper", _DEEPEST, "levels")
        if values > _MOST_VALUES:
            raise _too("longer", _MOST_VALUES, "values")
        if isinstance(value, Mapping):
            found = value.get("properties")
            properties += len(found) if isinstance(found, Mapping) else 0
            _check_keywords(value)
    if properties > _MOST_PROPERTIES:
        raise _too("longer", _MOST_PROPERTIES, "properties")
    text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    if len(text) > _MOST_CHARACTERS:
        raise _too("longer", _MOST_CHARACTERS, "characters")
    return text


def _walk(schema: Any) -> Iterator[tuple[int, Any]]:
    """All values in it, with the depth of each; without recursion."""
    left = [(1, schema)]
    while left:
        depth, value = left.pop()
        yield depth, value
        inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
        left.extend((depth + 1, each) for each in inner)


def _check_keywords(schema: Mapping[str, Any]) -> None:
    """Raise SchemaError for what would make a grammar out of all proportion to its text."""
    if any(len(name) > _LONGEST_NAME for name in schema):
        raise _too("of a longer name", _LONGEST_NAME, "characters")
    pattern, multiple = schema.get("pattern"), schema.get("multipleOf")
    if isinstance(pattern, str) and len(pattern) > _LONGEST_PATTERN:
        raise _too("of a longer pattern", _LONGEST_PATTERN, "characters")
    if isinstance(multiple, int | float) and not 0 < _steps(multiple) <= _LARGEST_MULTIPLE:
        raise SchemaError(
            f"the schema asks for multiples of {multiple:g}", expected=f"up to {_LARGEST_MULTIPLE} in its last place"
        )


def _steps(multiple: float) -> float:
    """A multiple in units of its last place: 25 of 0.25."""
    digits = f"{multiple:.15g}"
    return float(digits.replace(".", "")) if "e" not in digits else float("inf")


def _too(what: str, most: int, unit: str) -> SchemaError:
    return SchemaError(f"the JSON schema is {what} than {most:,} {unit}", expected=f"at most {most:,} {unit}")
