"""The one reader of JSON that others wrote: what two readers could read in two ways is refused.

JSON (RFC 8259) leaves open what a key that comes twice means, and Python's reader takes the last one, as well as NaN,
Infinity, and 1e999 for infinity; others refuse them or take the first. A manifest that is read in two ways is signed in
one and used in the other. So these are refused, and so are lone surrogates, which are no text, and depths at which
whatever goes through the values would end.

`read_json` gives the values, `read_model` those of a pydantic model, in which moreover no number is made of a text, nor
an integer of 595.0.
"""

from __future__ import annotations

import json
import math
from itertools import permutations
from typing import Any, Final, NoReturn, TypeVar

from pydantic import BaseModel

__all__ = ["MOST_DEPTH", "read_json", "read_model"]

MOST_DEPTH: Final = 64
"""Of lists and objects within each other; configs have fewer than ten."""

_MOST_DIGITS: Final = 40
"""Of an integer: `model_max_length` of published tokenizers has 31."""

_SHOWN: Final = 80
_TYPES: Final = ("a text", "an integer", "a number", "true or false")

_BROUGHT: Final = frozenset(permutations(_TYPES, 2)) - {("an integer", "a number")}
"""A value as given, and as it was read: of two types, but for a whole number in the place of any."""

M = TypeVar("M", bound=BaseModel)


def read_json(data: bytes, *, mark: bool = False) -> Any:
    """The values in a JSON text.

    Args:
        data: UTF-8; its length was looked at before.
        mark: a byte order mark may come first, as some editors write it.

    Raises:
        ValueError: it is no JSON, or can be read in two ways.
    """
    text = data.decode("utf-8-sig" if mark else "utf-8")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_float=_float,
            parse_int=_integer,
            parse_constant=_constant,
        )
    except RecursionError:
        raise _too_deep() from None
    _check_depth(value)
    if "\\u" in text:
        _check_text(value)
    return value


def read_model(kind: type[M], data: bytes) -> M:
    """A model's values from a JSON text, each of its own type.

    Args:
        kind: the model's class.
        data: UTF-8; its length was looked at before.

    Raises:
        ValueError: as `read_json`, or (as pydantic's ValidationError) it is none of this model.
    """
    value = read_json(data)
    found = kind.model_validate_json(data)
    _check_types(value, found.model_dump(mode="json"))
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {_shown(twice)} comes twice in one object")
    return found


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {_shown(text)} is beyond every number of 64 bits")
    return value


def _integer(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"the number {_shown(text)} has {len(text):,} digits")
    return int(text)


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _check_depth(value: Any) -> None:
    """Raise ValueError where lists and objects lie too deep; level by level, since others decide how deep it is."""
    level = [value]
    for _ in range(MOST_DEPTH):
        level = [inside for each in level for inside in _inside(each) if isinstance(inside, dict | list)]
        if not level:
            return
    raise _too_deep()


def _inside(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _too_deep() -> ValueError:
    return ValueError(f"its lists and objects lie more than {MOST_DEPTH} deep")


def _check_text(value: Any) -> None:
    """Raise ValueError where a text has half of a surrogate pair, which no encoding can write."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("a text in it has half of a surrogate pair") from None


def _check_types(given: Any, found: Any) -> None:
    """Raise ValueError where a value was brought into another type; what was given under other names is passed over."""
    waiting = [("", given, found)]
    while waiting:
        place, ours, theirs = waiting.pop()
        if isinstance(ours, dict) and isinstance(theirs, dict):
            waiting += [(f"{place}.{key}", ours[key], theirs[key]) for key in ours.keys() & theirs.keys()]
        elif isinstance(ours, list) and isinstance(theirs, list):
            pairs = zip(ours, theirs, strict=False)
            waiting += [(f"{place}.{number}", *pair) for number, pair in enumerate(pairs)]
        elif (_kind(ours), _kind(theirs)) in _BROUGHT:
            raise ValueError(f"{place[1:]} is {_kind(ours)}, {_shown(str(ours))}; expected {_kind(theirs)}")


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int):
        return "an integer"
    if isinstance(value, float):
        return "a number"
    return "a text" if isinstance(value, str) else "something else"


def _shown(text: str) -> str:
    return text.encode("unicode_escape", "replace").decode("ascii")[:_SHOWN]
