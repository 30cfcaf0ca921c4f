"""A make-believe Jetson in a scratch directory, on which the scripts in jetson/ are run."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["CHECKOUT", "GOLDEN", "Done", "JetPack", "Scratch", "boot"]

CHECKOUT = Path(__file__).resolve().parents[2]
GOLDEN = CHECKOUT / "tests" / "golden" / "jetson"
JetPack = Literal["6", "7"]

_STUB = Path(__file__).with_name("stub.sh")
_COMMANDS = (
    *("apt-get", "chown", "cmake", "dpkg-query", "getent", "git", "id", "nvpmodel"),
    *("python3", "runuser", "systemctl", "useradd", "usermod"),
)


@dataclass(frozen=True)
class Done:
    """What a script did: exit status, stdout, stderr."""

    status: int
    out: str
    err: str


@dataclass(frozen=True)
class Scratch:
    """A scratch root whose every command is `stub.sh`."""

    root: Path

    def run(self, script: str, *arguments: str | Path) -> Done:
        """Run jetson/SCRIPT on it."""
        command = ["bash", str(CHECKOUT / "jetson" / script), "--root", str(self.root), *map(str, arguments)]
        environment = {**os.environ, "STUB_ROOT": str(self.root), "LC_ALL": "C"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return Done(done.returncode, done.stdout, done.stderr)

    def calls(self) -> list[str]:
        """The commands called since the last look, as they were typed."""
        log = self.root / "stub" / "log"
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    def tree(self) -> dict[str, str]:
        """Every file, link and directory, without what the stubs remember: what is in it."""
        return {
            path.relative_to(self.root).as_posix(): _content(path)
            for path in sorted(self.root.rglob("*"))
            if path.relative_to(self.root).parts[0] != "stub"
        }

    def remember(self, name: str, text: str) -> None:
        """Write what a stub goes by; see stub.sh."""
        (self.root / "stub" / name).write_text(text, encoding="utf-8")


def boot(root: Path, jetpack: JetPack) -> Scratch:
    """A freshly flashed Jetson."""
    recorded = GOLDEN / f"jetpack-{jetpack}"
    for name in ("usr/bin", "usr/local/cuda/bin", "etc", "stub"):
        (root / name).mkdir(parents=True)
    for command in _COMMANDS:
        (root / "usr/bin" / command).symlink_to(_STUB)
    (root / "usr/local/cuda/bin/nvcc").symlink_to(_STUB)
    for name in ("nv_tegra_release", "nvpmodel.conf"):
        shutil.copy(recorded / name, root / "etc")
    shutil.copy(recorded / "packages", root / "stub")
    scratch = Scratch(root)
    for name, text in {"users": "root\n", "groups": "edgeq", "target": "graphical.target\n", "mode": "2\n"}.items():
        scratch.remember(name, text)
    if jetpack == "6":
        scratch.remember("nvzramconfig", "")
    return scratch


def _content(path: Path) -> str:
    if path.is_symlink():
        return f"-> {path.readlink()}"
    return path.read_text(encoding="utf-8") if path.is_file() else ""
