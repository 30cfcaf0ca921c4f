"""Names that were changed: what is read of them for one more release, each time with one line that names the new one.

To end it, delete this file and what imports it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

__all__ = ["FILES", "FLAGS", "current_arguments", "current_file", "current_keys"]

FLAGS: Final = {
    "--channel-fold": "--channel-equalization",
    "--patience": "--timeout",
    "--road": "--quantization",
}
"""Flag before -> now."""

FILES: Final = {"vlm.json": "pair.json", "channel_equalization.json": "channel_fold.json"}
"""File of a bundle now -> before."""

KEYS: Final = {
    "edgeq.plan/1": {"channel_fold": "channel_equalization"},
    "edgeq.export/1": {"channel_fold": "channel_equalization"},
    "edgeq.channel-equalization/1": {"sites": "points"},
    "edgeq.vlm-quality/1": {"partings": "divergences"},
}
"""Version of an artifact -> key before -> now."""

VERSIONS: Final = {
    "edgeq.pair/1": "edgeq.vlm/1",
    "edgeq.channel-fold/1": "edgeq.channel-equalization/1",
}
"""Version of an artifact before -> now."""

_LOG: Final = logging.getLogger("edgeq")


def current_arguments(arguments: Sequence[str]) -> list[str]:
    """A command line with today's flags; what stands behind `--` is left alone."""
    found: list[str] = []
    for index, argument in enumerate(arguments):
        if argument == "--":
            return [*found, *arguments[index:]]
        flag, equals, value = argument.partition("=")
        found.append(_renamed(flag, FLAGS[flag]) + equals + value if flag in FLAGS else argument)
    return found


def current_file(directory: Path, name: str) -> Path:
    """A bundle's file under today's name, or under the one before where it is there under that alone."""
    before = FILES.get(name)
    if before is None or (directory / name).exists() or not (directory / before).exists():
        return directory / name
    _renamed(before, name)
    return directory / before


def current_keys(values: Any) -> Any:
    """What an artifact holds (an object with a `version`) with today's version and keys; anything else as it is."""
    given = values.get("version") if isinstance(values, Mapping) else None
    if not isinstance(given, str):
        return values
    version = VERSIONS.get(given, given)
    names = KEYS.get(version, {})
    values = {**values, "version": version}
    if not names.keys() & values.keys():
        return values
    return {_renamed(key, names[key]) if key in names else key: value for key, value in values.items()}


def _renamed(before: str, now: str) -> str:
    _LOG.warning("%s is called %s now; the old name is read until the next release", before, now)
    return now
