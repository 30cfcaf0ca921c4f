"""Linux hands arm64's programs to QEMU, as long as the rehearsal runs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from edgeq.errors import InputError
from rehearsal.needs import EMULATOR_RULE

__all__ = ["emulated", "rule_line"]

_BINFMT: Final = Path("/proc/sys/fs/binfmt_misc")
_NAME: Final = "qemu-aarch64"


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
def emulated(binfmt: Path = _BINFMT, rule: Path = Path("/") / EMULATOR_RULE) -> Iterator[None]:
    """Register QEMU, unless it is; what was registered here is taken back at the end.

    Args:
        binfmt: where binfmt_misc is; it is mounted where it is not.
        rule: a file of binfmt.d(5).
    """
    if not (binfmt / "register").exists():  # in this process's own name space: it ends with it
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(binfmt)], check=True)
    if (binfmt / _NAME).exists():
        yield
        return
    (binfmt / "register").write_text(rule_line(rule.read_text(encoding="utf-8")), encoding="ascii")
    try:
        yield
    finally:
        (binfmt / _NAME).write_text("-1", encoding="ascii")
