"""What this machine must have, looked at before anything is begun."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edgeq.errors import InputError

__all__ = ["CERTIFICATES", "EMULATOR_RULE", "lacking", "require_able"]

EMULATOR_RULE: Final = Path("usr/lib/binfmt.d/qemu-aarch64.conf")
"""The line by which Linux hands arm64's programs to QEMU, below `/`; of Debian's package qemu-user-static."""

CERTIFICATES: Final = "etc/ssl/certs/ca-certificates.crt"
"""The authorities that this machine trusts, below `/`: packages are fetched by them."""

_PACKAGES: Final = {"debootstrap": "debootstrap", "dpkg-deb": "dpkg", "unshare": "util-linux", "git": "git"}


def lacking(root: Path, user: int, found: Callable[[str], str | None]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is not there, a sentence each, and the Debian packages that bring it.

    Args:
        root: where `proc` and `usr` are.
        user: number of the user that this process runs as.
        found: gives a program's file, or None.
    """
    sentences, packages = list[str](), list[str]()
    if user != 0:
        sentences.append("this user is not root: file systems are mounted, and owners set")
    filesystems = (root / "proc/filesystems").read_text(encoding="utf-8")
    if "binfmt_misc" not in filesystems.split():
        sentences.append(
            "this kernel has no binfmt_misc (CONFIG_BINFMT_MISC; where it is a module: modprobe binfmt_misc)"
        )
    if not (root / EMULATOR_RULE).is_file():
        sentences.append(f"/{EMULATOR_RULE} is not there: arm64's programs cannot be emulated")
        packages.append("qemu-user-static")
    if not (root / CERTIFICATES).is_file():
        sentences.append(f"/{CERTIFICATES} is not there")
        packages.append("ca-certificates")
    for program, package in _PACKAGES.items():
        if found(program) is None:
            sentences.append(f"{program} is not installed")
            packages.append(package)
    return tuple(sentences), tuple(packages)


def require_able(root: Path = Path("/")) -> None:
    """Raise InputError where this machine cannot rehearse, with all that it lacks."""
    sentences, packages = lacking(root, os.geteuid(), shutil.which)
    if not sentences:
        return
    step = f"as root: apt-get install {' '.join(packages)}" if packages else "run it as root on a Linux that has it"
    raise InputError("this machine cannot rehearse a device", causes=sentences, next_step=step)
