"""The one reader of YAML that people write: bounded before anything is made of it, and strict.

A few lines of YAML can stand for billions of values, by aliases of aliases, or nest deeper than a program's stack. So
the events of the parser are counted first, with every alias counted as what it stands for. A key that comes twice is
refused: YAML forbids it, and most readers take the last one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from edgeq.files import open_plain

__all__ = ["MAX_YAML_BYTES", "parse_yaml", "read_yaml"]

MAX_YAML_BYTES: Final = 64 << 20
"""The longest file read; a precision plan of a large network has some MB."""

_MOST_DEPTH: Final = 64
_TOO_DEEP: Final = f"it is nested more than {_MOST_DEPTH} deep"
_LIBYAML_TOO_DEEP: Final = "maximum nesting depth"
_MOST_REPEATED: Final = 200_000
"""Values that aliases stand for, beside those that are written."""

_MOST_ALIASES: Final = 1000
_LONGEST_BARE: Final = 10_000
"""Characters of a key, and of a text without quotes, which may be a number: some forms of these cost the square."""

_PARSER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MERGE: Final = "tag:yaml.org,2002:merge"


def read_yaml(path: Path, most: int = MAX_YAML_BYTES) -> Any:
    """The values in a YAML file.

    Args:
        path: of a plain file.
        most: bytes that it may have.

    Raises:
        OSError: it cannot be read, or is no plain file.
        ValueError: as `parse_yaml`.
    """
    with open_plain(path) as file:
        data = file.read(most + 1)
    return parse_yaml(data, most)


def parse_yaml(data: bytes, most: int = MAX_YAML_BYTES) -> Any:
    """The values in a YAML text.

    Args:
        data: UTF-8, perhaps with a byte order mark.
        most: bytes that it may have.

    Raises:
        ValueError: it is too long, no YAML, nested too deeply, stands for too many values, or has a key twice.
    """
    if len(data) > most:
        raise ValueError(f"it has more than {most:,} bytes")
    text = data.decode("utf-8-sig")
    try:
        _check_events(yaml.parse(text, Loader=_PARSER), len(text) + _MOST_REPEATED)
        return yaml.load(text, Loader=_Strict)
    except (yaml.YAMLError, RecursionError, OverflowError) as error:
        told = " ".join(str(error).split()) or "it is no YAML"
        if _LIBYAML_TOO_DEEP in told:  # before its first event: it looks ahead
            told = _TOO_DEEP
        raise ValueError(told) from error


class _Strict(_PARSER):  # type: ignore[misc, valid-type]
    """Safe values only, and no key twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """As the safe loader, after a look at the keys."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if len(key.value) > _LONGEST_BARE:
                    raise yaml.constructor.ConstructorError(None, None, "a key is too long", key.start_mark)
                if (key.tag, key.value) in seen:
                    told = f"the key {key.value[:60]!r} comes twice"
                    raise yaml.constructor.ConstructorError(None, None, told, key.start_mark)
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep=deep)


def _check_events(events: Iterator[Any], most: int) -> None:
    """Raise ValueError where they nest too deeply or stand for more than `most` values, aliases counted in full."""
    sizes: dict[str, int] = {}
    open_above: list[tuple[str | None, int]] = []
    values = aliases = 0
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            aliases += 1
            if any(anchor == event.anchor for anchor, _ in open_above):
                raise ValueError(f"the alias *{str(event.anchor)[:60]} stands inside of what it stands for")
            values += sizes.get(str(event.anchor), 1)
        elif isinstance(event, yaml.ScalarEvent):
            values += 1
            if event.implicit[0] and len(event.value) > _LONGEST_BARE:
                raise ValueError(f"a text without quotes has more than {_LONGEST_BARE:,} characters")
            if event.anchor is not None:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_above.append((event.anchor, values))
            values += 1
            if len(open_above) > _MOST_DEPTH:
                raise ValueError(_TOO_DEEP)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_above.pop()
            if anchor is not None:
                sizes[anchor] = values - before
        if values > most or aliases > _MOST_ALIASES:
            raise ValueError(f"its aliases stand for more than {_MOST_REPEATED:,} values, or are {aliases:,}")
