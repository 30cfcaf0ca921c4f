"""What this machine must have to emulate one that boots, looked at before anything is begun."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edgeq.errors import InputError
from rehearsal.needs import lacking as lacking_root

__all__ = ["FREE_BYTES", "FREE_MEMORY_BYTES", "lacking", "require_able"]

FREE_BYTES: Final = 8_000_000_000
"""Of the cache's disk: Debian, a copy of it, the image, and what is written to it."""

FREE_MEMORY_BYTES: Final = 2_800_000_000
"""For a machine of 2 GB and QEMU's own."""

_PROGRAMS: Final = {"qemu-system-aarch64": "qemu-system-arm", "qemu-img": "qemu-utils", "mke2fs": "e2fsprogs"}
_KB: Final = 1024


def lacking(
    root: Path, user: int, found: Callable[[str], str | None], free_bytes: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is not there, a sentence each, and the Debian packages that bring it.

    Args:
        root: where `proc` and `usr` are.
        user: number of the user that this process runs as.
        found: gives a program's file, or None.
        free_bytes: of the disk that the cache is on.
    """
    before, needed = lacking_root(root, user, found)
    sentences, packages = list(before), list(needed)
    for program, package in _PROGRAMS.items():
        if found(program) is None:
            sentences.append(f"{program} is not installed")
            packages.append(package)
    if free_bytes < FREE_BYTES:
        sentences.append(f"{free_bytes / 1e9:.1f} GB of the disk are free, of {FREE_BYTES / 1e9:.1f}")
    lines = (root / "proc/meminfo").read_text(encoding="utf-8").splitlines()
    free = next((int(line.split()[1]) * _KB for line in lines if line.startswith("MemAvailable:")), 0)
    if free < FREE_MEMORY_BYTES:
        sentences.append(f"{free / 1e9:.1f} GB of memory are free, of {FREE_MEMORY_BYTES / 1e9:.1f}")
    return tuple(sentences), tuple(packages)


def require_able(cache: Path, root: Path = Path("/")) -> None:
    """Raise InputError where this machine cannot, with all that it lacks."""
    place = next(each for each in (cache.resolve(), *cache.resolve().parents) if each.exists())
    sentences, packages = lacking(root, os.geteuid(), shutil.which, shutil.disk_usage(place).free)
    if not sentences:
        return
    step = f"as root: apt-get install {' '.join(packages)}" if packages else "run it as root where there is all of it"
    raise InputError("this machine cannot emulate a device that boots", causes=sentences, next_step=step)
