"""The wheels that a person brings for a language model: torch, and bitsandbytes of install.sh's release."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from edgeq.errors import InputError

__all__ = ["TORCH", "bitsandbytes_release", "language_wheels"]

TORCH: Final = "2.9.1"
"""Its wheel for aarch64 on PyPI computes on the CPU alone, and is small; later ones bring CUDA."""

_PYTHON: Final = "3.11"
"""Of Debian bookworm."""
_PLATFORMS: Final = ("manylinux_2_24_aarch64", "manylinux_2_28_aarch64", "manylinux2014_aarch64")


def bitsandbytes_release(checkout: Path) -> str:
    """What `jetson/install.sh` installs or builds."""
    text = (checkout / "jetson/install.sh").read_text(encoding="utf-8")
    (found,) = re.findall(r"^BITSANDBYTES_TAG=(\S+)", text, flags=re.MULTILINE)
    return str(found)


def language_wheels(directory: Path, checkout: Path, torch: str) -> str:
    """Download both into a directory, unless they are there; gives their names.

    Args:
        directory: kept between rehearsals.
        checkout: of edgeq.
        torch: its release.
    """
    wanted = {"torch": torch, "bitsandbytes": bitsandbytes_release(checkout)}
    for package, release in wanted.items():
        if not list(directory.glob(f"{package}-{release}-*.whl")):
            for other in directory.glob(f"{package}-*.whl"):
                other.unlink()
            _download(directory, f"{package}=={release}")
    return ", ".join(sorted(path.name for path in directory.glob("*.whl")))


def _download(directory: Path, requirement: str) -> None:
    platforms = [word for platform in _PLATFORMS for word in ("--platform", platform)]
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"),
        *("--python-version", _PYTHON, *platforms, "--dest", str(directory), requirement),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(
            f"{requirement} cannot be downloaded for aarch64 and Python {_PYTHON}", causes=(done.stderr[-400:],)
        )
