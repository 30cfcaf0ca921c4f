"""What every story does with the emulated device: the checkout, versions, releases, the unit, doctor."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rehearsal.client import Unit, read_unit
from rehearsal.report import UnexpectedError
from rehearsal.root import Done, Machine

__all__ = [
    "INSTALLER",
    "KEY",
    "STORE",
    "copy_checkout",
    "current_release",
    "doctor_findings",
    "expect",
    "install_release",
    "package_versions",
    "trust",
    "unit_of",
]

STORE: Final = "/var/lib/edgeq"
KEY: Final = "/etc/edgeq/keys/team.public.pem"
_SOURCE: Final = "/root/edgeq"
INSTALLER: Final = f"{_SOURCE}/jetson/install.sh"


def expect(done: Done, status: int) -> Done:
    """It, where it ended so; raises UnexpectedError."""
    if done.status != status:
        raise UnexpectedError(f"status {done.status}, not {status}: {done.said}")
    return done


def copy_checkout(device: Machine, checkout: Path) -> str:
    """The files that git knows or would add; gives how many."""
    names = subprocess.run(
        ["git", "-C", checkout, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    files = [name for name in names if name and (checkout / name).is_file()]
    for name in files:
        target = device.root / _SOURCE[1:] / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(checkout / name, target)
    return f"{len(files)} files"


def package_versions(device: Machine, packages: Sequence[str]) -> dict[str, str]:
    """Debian's version, the processor, Python's and those of installed packages."""
    code = (
        "import json, platform, sys; from importlib.metadata import version; print(json.dumps({"
        "'architecture': platform.machine(), 'python': platform.python_version(), "
        "**{name: version(name) for name in sys.argv[1:]}}))"
    )
    done = expect(device.run("/opt/edgeq/venv/bin/python", "-c", code, *packages), 0)
    debian = (device.root / "etc/debian_version").read_text(encoding="utf-8").strip()
    return {"debian": debian, **json.loads(done.out)}


def trust(device: Machine, public_key: Path) -> None:
    """Put the team's key where the device's README says."""
    shutil.copy(public_key, device.root / KEY[1:])


def install_release(device: Machine, packed: Path, *more: str, status: int = 0) -> str:
    """Run `edgeq install`; gives what it said."""
    shutil.copy(packed, device.root / "root" / packed.name)
    words = (*device.edgeq, "install", f"/root/{packed.name}", "--key", KEY, *more)
    done = expect(device.run(*words), status)
    return done.out if status == 0 else done.said


def current_release(device: Machine) -> int:
    """The number of the release that is in use."""
    manifest = _inside(device.root, device.root / STORE[1:] / "current/manifest.json")
    return int(json.loads(manifest.read_text(encoding="utf-8"))["sequence"])


def unit_of(device: Machine) -> Unit:
    """What systemd would run."""
    return read_unit((device.root / "etc/systemd/system/edgeq.service").read_text(encoding="utf-8"))


def doctor_findings(device: Machine) -> dict[str, Mapping[str, Any]]:
    """What `edgeq doctor` finds as the service's user, by name; UnexpectedError where something is missing."""
    done = device.run(*device.edgeq, "doctor", "--json", user=unit_of(device).user)
    found = {str(finding["name"]): finding for finding in json.loads(done.out)["findings"]}
    if done.status:
        missing = [f"{name}: {finding['seen']}" for name, finding in found.items() if finding["status"] == "missing"]
        raise UnexpectedError(f"status {done.status}, missing {missing}")
    return found


def _inside(root: Path, path: Path) -> Path:
    """A path of the device as this machine sees it, its links followed within the root."""
    followed = root
    for part in path.relative_to(root).parts:
        followed = followed / part
        if followed.is_symlink():
            target = followed.readlink()
            followed = root / target.relative_to("/") if target.is_absolute() else followed.parent / target
    return followed
