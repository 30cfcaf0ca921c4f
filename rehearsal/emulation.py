"""Linux hands arm64's programs to QEMU, as long as the rehearsal runs."""

from __future__ import annotations

import fcntl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TextIO

from edgeq.errors import InputError
from rehearsal.needs import EMULATOR_RULE

__all__ = ["emulated", "rule_line"]

_BINFMT: Final = Path("/proc/sys/fs/binfmt_misc")
_NAME: Final = "qemu-aarch64"
_OURS: Final = "registered\n"


def rule_line(text: str) -> str:
    """The line to register, of a file of binfmt.d(5).

    Raises:
        InputError: there is none, or its flags do not have F: then QEMU would be looked for inside the arm64 root.
    """
    lines = [line for line in text.splitlines() if line.startswith(":")]
    if len(lines) != 1 or "F" not in lines[0].rsplit(":", 1)[-1]:
        raise InputError(
            f"/{EMULATOR_RULE} does not hold one rule with the flag F",
            next_step="apt-get install --reinstall qemu-user-static",
        )
    return lines[0]


@contextmanager
def emulated(
    binfmt: Path = _BINFMT, rule: Path = Path("/") / EMULATOR_RULE, shared: Path = Path("/run/lock/edgeq-rehearsal")
) -> Iterator[None]:
    """Register QEMU, unless it is; what a rehearsal registered, the last one that uses it takes back.

    Args:
        binfmt: where binfmt_misc is; it is mounted where it is not.
        rule: a file of binfmt.d(5).
        shared: each rehearsal holds a lock on it; it says whether QEMU was registered by one.
    """
    if not (binfmt / "register").exists():  # in this process's own name space: it ends with it
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(binfmt)], check=True)
    with shared.open("a+", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # waits for one that takes it back
        if not (binfmt / _NAME).exists():
            line = rule_line(rule.read_text(encoding="utf-8"))
            with suppress(FileExistsError):  # another one was quicker
                (binfmt / "register").write_text(line, encoding="ascii")
            lock.write(_OURS)
            lock.flush()
        try:
            yield
        finally:
            with suppress(BlockingIOError):  # another one uses it
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _take_back(binfmt, lock)


def _take_back(binfmt: Path, lock: TextIO) -> None:
    lock.seek(0)
    if lock.read():
        lock.truncate(0)
        (binfmt / _NAME).write_text("-1", encoding="ascii")
