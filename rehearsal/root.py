"""An arm64 Debian in a directory: made once, copied for each rehearsal, and entered with chroot."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeq.errors import InputError
from rehearsal.needs import CERTIFICATES

__all__ = ["Done", "Machine", "base_root", "emulated_machine", "fresh_root", "hand_over", "mounted", "this_machine"]

SUITE: Final = "bookworm"
MIRROR: Final = "http://deb.debian.org/debian"
_PACKAGES: Final = "ca-certificates,python3,systemd,udev"
_TRUSTED: Final = "etc/ssl/rehearsal.crt"
"""The authorities that this machine trusts; ca-certificates of the root writes its own file again when it is set up."""
_PASSED_ON: Final = ("http_proxy", "https_proxy", "no_proxy", "PIP_INDEX_URL", "PIP_DEFAULT_TIMEOUT", "OMP_NUM_THREADS")
_DEVICES: Final = {"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9}
"""Character devices of the major number 1, and their minor ones."""


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    status: int
    out: str
    err: str
    seconds: float

    @property
    def said(self) -> str:
        """Its last lines, of stderr where there are any."""
        return " ".join((self.err.strip() or self.out.strip()).splitlines()[-6:])


@dataclass(frozen=True)
class Machine:
    """Where commands are run.

    Attributes:
        name: of it.
        edgeq: the command of that name.
        root: its directory; `/` for this machine.
        environment: of every command.
        enter: goes before every command.
    """

    name: str
    edgeq: tuple[str, ...]
    root: Path
    environment: Mapping[str, str]
    enter: tuple[str, ...] = ()

    def command(self, *words: str, user: str = "") -> list[str]:
        """The words to run, as root or as another user: its process is then the command's own, as under systemd."""
        become = ("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--")
        return [*self.enter, *(become if user else ()), *words]

    def run(self, *words: str, user: str = "", seconds: float = 1800) -> Done:
        """Run a command to its end.

        Raises:
            subprocess.TimeoutExpired: it took longer.
        """
        begin = time.monotonic()
        found = subprocess.run(
            self.command(*words, user=user),
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
        return Done(found.returncode, found.stdout, found.stderr, time.monotonic() - begin)


def this_machine() -> Machine:
    """This one: the workshop, whose edgeq is the one that runs."""
    code = "from edgeq.cli import main; main()"
    return Machine("here", (sys.executable, "-c", code), Path("/"), dict(os.environ))


def emulated_machine(root: Path) -> Machine:
    """An arm64 root that is mounted."""
    passed = {name: os.environ[name] for each in _PASSED_ON for name in (each, each.upper()) if name in os.environ}
    certificates = dict.fromkeys(("PIP_CERT", "SSL_CERT_FILE"), f"/{_TRUSTED}")
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    environment = {"PATH": path, "HOME": "/root", "LC_ALL": "C.UTF-8", **certificates, **passed}
    return Machine("arm64", ("edgeq",), root, environment, ("chroot", str(root)))


def base_root(cache: Path) -> str:
    """Make the arm64 Debian that rehearsals are copied from, unless it is there; gives what was done."""
    base = cache / f"{SUITE}-arm64"
    if base.exists():
        return f"Debian {SUITE}, from the cache"
    cache.mkdir(parents=True, exist_ok=True)
    partial = cache / f"{SUITE}-arm64.partial"
    remove_root(partial)
    command = [
        "debootstrap",
        "--arch=arm64",
        "--variant=minbase",
        f"--include={_PACKAGES}",
        SUITE,
        str(partial),
        MIRROR,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(
            f"debootstrap ended with status {done.returncode}",
            causes=(done.stdout.strip()[-300:], done.stderr.strip()[-300:]),
            next_step=f"see {partial}/debootstrap/debootstrap.log",
        )
    partial.rename(base)
    return f"Debian {SUITE}, made by debootstrap"


def fresh_root(cache: Path) -> Path:
    """A copy of the base for one rehearsal, in the place of the one before."""
    root = cache / "root"
    remove_root(root)
    subprocess.run(["cp", "--archive", "--reflink=auto", cache / f"{SUITE}-arm64", root], check=True)
    hand_over(Path("/"), root)
    return root


def hand_over(here: Path, root: Path) -> None:
    """Copy what the root needs of this machine: whom it trusts, and how it finds others.

    Args:
        here: this machine's `/`.
        root: the arm64 root.
    """
    for source, target in ((CERTIFICATES, _TRUSTED), ("etc/resolv.conf",) * 2, ("etc/hosts",) * 2):
        if (here / source).exists():
            (root / target).unlink(missing_ok=True)
            shutil.copy(here / source, root / target)


def remove_root(root: Path) -> None:
    """Remove it; InputError where something is mounted below it, which would be removed as well."""
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    below = [line.split()[1] for line in mounts.splitlines() if line.split()[1].startswith(f"{root.resolve()}/")]
    if below:
        raise InputError(
            f"{below[0]} is mounted, and would be removed", next_step=f"umount {' '.join(reversed(below))}"
        )
    if root.exists():
        shutil.rmtree(root)


@contextmanager
def mounted(root: Path, pip_cache: Path) -> Iterator[None]:
    """Mount what programs need in an arm64 root; all of it is undone at the end.

    Args:
        root: its directory.
        pip_cache: kept between rehearsals.
    """
    pip_cache.mkdir(parents=True, exist_ok=True)
    (root / "root/.cache/pip").mkdir(parents=True, exist_ok=True)
    with ExitStack() as undo:
        _mount(undo, root / "proc", "-t", "proc", "proc")
        # No /sys: it tells of this machine's processor, and ONNX Runtime, built for arm64, dies of it (SIGSEGV).
        _mount(undo, root / "dev", "-t", "tmpfs", "-o", "mode=755", "tmpfs")
        for name, minor in _DEVICES.items():
            os.mknod(root / "dev" / name, 0o020666, os.makedev(1, minor))
            (root / "dev" / name).chmod(0o666)
        for name, target in {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}.items():
            (root / "dev" / name).symlink_to(target if target.startswith("/") else f"/proc/self/{target}")
        (root / "dev/shm").mkdir()
        _mount(undo, root / "dev/shm", "-t", "tmpfs", "-o", "mode=1777", "tmpfs")
        _mount(undo, root / "run", "-t", "tmpfs", "-o", "mode=755", "tmpfs")
        _mount(undo, root / "root/.cache/pip", "--bind", str(pip_cache))
        yield


def _mount(undo: ExitStack, place: Path, *how: str) -> None:
    subprocess.run(["mount", *how, str(place)], check=True, capture_output=True)
    undo.callback(subprocess.run, ["umount", "--lazy", str(place)], check=False, capture_output=True)
