"""Signed releases of one classifier's bundle: two good ones, and one whose canaries fail."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from edgeq.bundle.keys import KeyPair, make_keys
from edgeq.bundle.manifest import read_manifest, write_manifest
from edgeq.bundle.release import new_release
from edgeq.bundle.signature import sign_bundle
from edgeq.bundle.transport import pack
from edgeq.errors import InputError

__all__ = [
    "Release",
    "Releases",
    "canary_images",
    "make_release",
    "make_releases",
    "require_classifier",
    "require_vision_language",
]

_PRODUCT: Final = "rehearsal"
_LISTED: Final = "canaries/canaries.json"


@dataclass(frozen=True)
class Releases:
    """What comes onto the device.

    Attributes:
        public_key: of the key that signed all of them.
        first, second: packed; the second has a higher sequence.
        failing: the third; its canaries are those of other images.
    """

    public_key: Path
    first: Path
    second: Path
    failing: Path


@dataclass(frozen=True)
class Release:
    """One that comes onto the device.

    Attributes:
        public_key: of the key that signed it.
        packed: the bundle.
    """

    public_key: Path
    packed: Path


def require_classifier(bundle: Path) -> None:
    """Raise InputError unless this is a whole classifier's bundle with canaries."""
    manifest = read_manifest(bundle)
    if manifest.kind != "classifier" or manifest.task is not None or not (bundle / _LISTED).is_file():
        raise InputError(
            f"{bundle} is the bundle of a {manifest.kind} model",
            expected="a classifier's bundle with canaries, such as out/demo/bundle of `make demo`",
        )


def require_vision_language(bundle: Path) -> None:
    """Raise InputError unless this is a whole vision-language bundle with canaries."""
    manifest = read_manifest(bundle)
    if manifest.kind != "vision-language" or not (bundle / _LISTED).is_file():
        raise InputError(
            f"{bundle} is the bundle of a {manifest.kind} model",
            expected="a vision-language one with canaries, such as out/demo/vlm-bundle of `make demo`",
        )


def canary_images(bundle: Path) -> tuple[Path, ...]:
    """The canaries' images, in their order."""
    listed = json.loads((bundle / _LISTED).read_text(encoding="utf-8"))
    return tuple(bundle / "canaries" / entry["image"] for entry in listed["canaries"])


def make_release(bundle: Path, directory: Path) -> Release:
    """Copy, sign and pack.

    Args:
        bundle: of any kind; it is only read.
        directory: a new one, for all that is made.
    """
    directory.mkdir(parents=True)
    keys = make_keys(directory / "team")
    return Release(keys.public, _release(bundle, directory, 1, keys))


def make_releases(bundle: Path, directory: Path) -> Releases:
    """Copy, change, sign and pack.

    Args:
        bundle: a classifier's; it is only read.
        directory: a new one, for all that is made.
    """
    directory.mkdir(parents=True)
    keys = make_keys(directory / "team")
    good = [_release(bundle, directory, number, keys) for number in (1, 2)]
    return Releases(keys.public, good[0], good[1], _release(bundle, directory, 3, keys, failing=True))


def _release(bundle: Path, directory: Path, number: int, keys: KeyPair, *, failing: bool = False) -> Path:
    made = directory / f"release{number}"
    shutil.copytree(bundle, made)
    if failing:
        _swap_canaries(made)
    sign_bundle(made, keys.private, release=new_release(_PRODUCT, number))
    packed = directory / f"release{number}.edgeq.tar"
    pack(made, packed)
    return packed


def _swap_canaries(bundle: Path) -> None:
    """Say of each canary what was seen of the next one: so a device computes what the workshop did not see."""
    manifest = read_manifest(bundle)
    listed = json.loads((bundle / _LISTED).read_text(encoding="utf-8"))
    for name in (listed["fp32_logits"], listed["int8_logits"]):
        logits = np.load(bundle / "canaries" / name)
        np.save(bundle / "canaries" / name, np.roll(logits, 1, axis=0))
    write_manifest(bundle, kind=manifest.kind, labels=manifest.labels, allowed=manifest.allowed, needs=manifest.needs)
