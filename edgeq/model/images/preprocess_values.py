"""Values of a `preprocessor_config.json`: each is of its type, or is refused by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from edgeq.errors import ModelError

__all__ = ["FLAGS", "channels", "flag", "integer", "length", "number", "require", "size"]

FLAGS: Final = "give --mean, --std and --size instead, which replace the file"


def require(settings: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    """Raise ModelError when one of the keys is missing."""
    missing = [key for key in keys if key not in settings]
    if missing:
        raise ModelError(f"preprocessor_config.json does not say {', '.join(missing)}", next_step=FLAGS)


def size(settings: Mapping[str, Any], key: str, *, square: bool) -> tuple[int, int] | int:
    """A size as (height, width), or as the length of the shorter edge; ModelError for anything else.

    Args:
        settings: the config over its processor's defaults.
        key: which size.
        square: whether a bare number is a square's; else it is the shorter edge.
    """
    require(settings, (key,))
    value = settings[key]
    if isinstance(value, list | tuple) and len(value) == 2:
        return length(value[0], key), length(value[1], key)
    if isinstance(value, Mapping):
        given = {name: each for name, each in value.items() if each is not None}
        if set(given) == {"height", "width"}:
            return length(given["height"], key), length(given["width"], key)
        if set(given) == {"shortest_edge"}:
            return length(given["shortest_edge"], key)
        raise ModelError(
            f"preprocessor_config.json: {key} is {dict(value)}",
            expected="height and width, or shortest_edge",
            next_step=FLAGS,
        )
    edge = length(value, key)
    return (edge, edge) if square else edge


def length(value: object, key: str) -> int:
    """A whole number of pixels, or ModelError that names `key`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ModelError(f"preprocessor_config.json: {key} has {value!r}, expected a whole number of pixels")
    return value


def flag(settings: Mapping[str, Any], key: str) -> bool:
    """A switch; off when it is not there. ModelError for anything else."""
    value = settings.get(key, False)
    if not isinstance(value, bool):
        raise ModelError(f"preprocessor_config.json: {key} is {value!r}, expected true or false")
    return value


def integer(settings: Mapping[str, Any], key: str) -> int:
    """A whole number, or ModelError."""
    require(settings, (key,))
    value = settings[key]
    if isinstance(value, bool) or not isinstance(value, int):
        raise ModelError(f"preprocessor_config.json: {key} is {value!r}, expected a whole number")
    return value


def number(settings: Mapping[str, Any], key: str) -> float:
    """A positive, finite number, or ModelError."""
    require(settings, (key,))
    value = settings[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ModelError(f"preprocessor_config.json: {key} is {value!r}, expected a positive number")
    return float(value)


def channels(settings: Mapping[str, Any], key: str, count: int) -> tuple[float, ...]:
    """Numbers, one per channel; one that is alone, or that all are, stands for each.

    Their range is checked by Preprocess.

    Args:
        settings: the config over its processor's defaults.
        key: which numbers.
        count: of channels.

    Raises:
        ModelError: they are none, or of another count.
    """
    require(settings, (key,))
    value = settings[key]
    values = list(value) if isinstance(value, list | tuple) else [value]
    values = values * count if len(values) == 1 else values[:count] if values == values[:1] * 3 else values
    if len(values) != count or any(isinstance(one, bool) or not isinstance(one, int | float) for one in values):
        raise ModelError(
            f"preprocessor_config.json: {key} is {value!r}, expected {'three numbers' if count > 1 else 'one number'}"
        )
    return tuple(float(one) for one in values)
