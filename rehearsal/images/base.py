"""A stand-in for the base images that registries have: Debian with Python, made by debootstrap."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

from rehearsal.images.engine import ContainerEngine
from rehearsal.needs import CERTIFICATES
from rehearsal.report import StandIn, UnexpectedError
from rehearsal.root import MIRROR, SUITE, remove_root

__all__ = ["BASE", "STAND_INS", "base_image", "wheels"]

BASE: Final = f"localhost/edgeq-rehearsal-base:{SUITE}-1"
_PACKAGES: Final = "ca-certificates,python-is-python3,python3,python3-venv"
_PYTHON: Final = "3.11"
"""Of Debian bookworm."""

_LOCK: Final = Path(__file__).resolve().parents[2] / "requirements" / "dev.lock"

STAND_INS: Final = (
    StandIn(name="PYTHON_IMAGE", instead_of="Docker's Python", does="is Debian bookworm with its Python 3.11"),
    StandIn(name="L4T_IMAGE", instead_of="NVIDIA's L4T JetPack", does="is the same Debian: no CUDA, no TensorRT"),
    StandIn(name="context wheels", instead_of="torch for JetPack 6", does="is torch for this processor"),
    StandIn(name="context bitsandbytes", instead_of="the stage that builds it", does="is the package index's wheel"),
)


def base_image(engine: ContainerEngine, cache: Path) -> str:
    """Make it, unless the engine has it; says which."""
    try:
        engine.inspect(BASE)
    except UnexpectedError:
        pass
    else:
        return f"Debian {SUITE}, made before"
    root, archive = cache / "base", cache / "base.tar"
    remove_root(root)
    command = ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", SUITE, str(root), MIRROR]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnexpectedError(f"debootstrap ended with status {done.returncode}: {done.stdout.strip()[-300:]}")
    # The authorities that this machine trusts: packages are fetched by them.
    (root / CERTIFICATES).write_bytes(Path("/", CERTIFICATES).read_bytes())
    for left in (*(root / "var/cache/apt/archives").glob("*.deb"), *(root / "var/lib/apt/lists").glob("*_*")):
        left.unlink()
    subprocess.run(["tar", "--create", "--file", str(archive), "--directory", str(root), "."], check=True)
    engine.call("import", "--change", f"ENV PIP_CERT=/{CERTIFICATES}", str(archive), BASE)
    archive.unlink()
    remove_root(root)
    return f"Debian {SUITE}, made by debootstrap"


def wheels(name: str, place: Path) -> str:
    """Fetch the wheel of the version in the lock file with this machine's own pip; says which, and how large.

    Args:
        name: of the package.
        place: a directory, in the end with this wheel alone.
    """
    (pin,) = (line for line in _LOCK.read_text(encoding="utf-8").splitlines() if line.startswith(f"{name}=="))
    place.mkdir(parents=True, exist_ok=True)
    for old in place.glob("*.whl"):
        if not old.name.startswith(pin.replace("==", "-")):
            old.unlink()
    if not list(place.glob("*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--python-version", _PYTHON, "--dest", str(place), pin]
        subprocess.run(command, check=True, capture_output=True)
    (wheel,) = place.glob("*.whl")
    return f"{wheel.name}, {wheel.stat().st_size / 1e6:.0f} MB"
