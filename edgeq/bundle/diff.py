"""What changed between two bundles: files, and what their manifests and quality figures say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from edgeq.bundle.contents import BundledFile, Manifest
from edgeq.bundle.directory import read_small
from edgeq.bundle.errors import ManifestError
from edgeq.bundle.limits import DEFAULT_LIMITS, Limits
from edgeq.bundle.verify import verify_bundle
from edgeq.strict_json import read_json

__all__ = ["QUALITY", "BundleDiff", "Change", "ChangedFile", "diff_bundles"]

QUALITY: Final = "quality.json"
DIFF_VERSION: Final = "edgeq.bundle-diff/1"

Value = str | int | float | bool | None


class Change(BaseModel):
    """One value by its place, such as `needs.memory_bytes`; None where there is none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    before: Value
    after: Value


class ChangedFile(BaseModel):
    """A file that both bundles have, with other bytes; sizes in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    size_before: int
    size_after: int


class BundleDiff(BaseModel):
    """What changed from one bundle to the other; all empty where they are the same.

    Attributes:
        added, removed, changed: files, by name.
        facts: of the manifests: kind, made_by, labels, allowed, needs.
        figures: of `quality.json`, where both have one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal["edgeq.bundle-diff/1"] = DIFF_VERSION
    added: tuple[BundledFile, ...]
    removed: tuple[BundledFile, ...]
    changed: tuple[ChangedFile, ...]
    facts: tuple[Change, ...]
    figures: tuple[Change, ...]


def diff_bundles(before: Path, after: Path, *, limits: Limits = DEFAULT_LIMITS) -> BundleDiff:
    """Compare two bundles' directories; each is verified first, since what is compared is what they say.

    Args:
        before: directory of the older bundle.
        after: directory of the newer one.
        limits: larger bundles are refused.

    Raises:
        BundleError: one of them is not whole.
    """
    old, new = verify_bundle(before, limits=limits), verify_bundle(after, limits=limits)
    old_files = {file.name: file for file in old.files}
    new_files = {file.name: file for file in new.files}
    both = sorted(old_files.keys() & new_files.keys())
    figures: tuple[Change, ...] = ()
    if QUALITY in both:
        figures = _changes(_figures(before, limits), _figures(after, limits))
    return BundleDiff(
        added=tuple(new_files[name] for name in sorted(new_files.keys() - old_files.keys())),
        removed=tuple(old_files[name] for name in sorted(old_files.keys() - new_files.keys())),
        changed=tuple(
            ChangedFile(name=name, size_before=old_files[name].size, size_after=new_files[name].size)
            for name in both
            if old_files[name].sha256 != new_files[name].sha256
        ),
        facts=_changes(_facts(old), _facts(new)),
        figures=figures,
    )


def _facts(manifest: Manifest) -> dict[str, Value]:
    return dict(_leaves("", manifest.model_dump(mode="json", exclude={"version", "files"})))


def _figures(directory: Path, limits: Limits) -> dict[str, Value]:
    """The values of `quality.json` by their places."""
    path = directory / QUALITY
    try:
        return dict(_leaves("", read_json(read_small(path, limits.manifest_bytes))))
    except ValueError as error:
        raise ManifestError(f"{path} holds no quality figures", expected="JSON") from error


def _leaves(place: str, value: JsonValue) -> Iterator[tuple[str, Value]]:
    """Every value below, with its place: keys joined by dots, numbers for the elements of lists."""
    if isinstance(value, dict | list):
        inside = value.items() if isinstance(value, dict) else enumerate(value)
        for key, below in inside:
            yield from _leaves(f"{place}.{key}" if place else str(key), below)
    else:
        yield place, value


def _changes(before: Mapping[str, Value], after: Mapping[str, Value]) -> tuple[Change, ...]:
    names = dict.fromkeys((*before, *after))
    pairs = ((name, before.get(name), after.get(name)) for name in names)
    return tuple(Change(name=name, before=old, after=new) for name, old, new in pairs if old != new)
