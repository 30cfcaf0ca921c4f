"""Run a probe in a process of its own: what kills it is a finding, and not the end of the examination.

A native library that does not fit the machine may end the process with a signal, hang, or call exit() itself, as
bitsandbytes does when a kernel cannot be launched. A probe prints each fact as one JSON object in a line as soon as it
knows it, so that what it knew before it died is kept.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["Outcome", "run_probe", "tell"]

_MARK: Final = "edgeq-fact "
_SHOWN: Final = 300


@dataclass(frozen=True)
class Outcome:
    """How a probe ended.

    Attributes:
        facts: what it told, by name.
        returncode: its exit status; the negative number of the signal that ended it; None where its time was up.
        said: the end of what it wrote besides, on both streams.
    """

    facts: Mapping[str, Any]
    returncode: int | None
    said: str = ""

    @property
    def whole(self) -> bool:
        """It came to its end."""
        return self.returncode == 0

    @property
    def ending(self) -> str:
        """How it ended, in words, with the last line it wrote."""
        last = (self.said.strip().splitlines() or [""])[-1][:_SHOWN]
        return _ending(self.returncode) + (f": {last}" if last else "")


def tell(name: str, fact: object) -> None:
    """Called in a probe: print a fact at once, so that it is known whatever comes next."""
    print(_MARK + json.dumps({name: fact}), flush=True)


def run_probe(module: str, *arguments: str, limit_s: float) -> Outcome:
    """Run a module in a process of its own.

    The directory is the root, so that no file beside the user is taken for a module.

    Args:
        module: run as `python -m MODULE ARGUMENTS`.
        arguments: its command line.
        limit_s: seconds after which it is stopped.
    """
    command = [sys.executable, "-m", module, *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, cwd=os.sep, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired as late:
        return _outcome(late.stdout or b"", late.stderr or b"", None)
    return _outcome(done.stdout, done.stderr, done.returncode)


def _outcome(stdout: bytes, stderr: bytes, returncode: int | None) -> Outcome:
    lines = stdout.decode("utf-8", errors="replace").splitlines()
    facts: dict[str, Any] = {}
    for line in lines:
        if line.startswith(_MARK):
            with suppress(ValueError):  # killed in the middle of a line
                facts.update(json.loads(line.removeprefix(_MARK)))
    others = [line for line in lines if not line.startswith(_MARK)]
    return Outcome(facts, returncode, "\n".join([*others, stderr.decode("utf-8", errors="replace")]))


def _ending(returncode: int | None) -> str:
    if returncode is None:
        return "it did not end in its time"
    if returncode >= 0:
        return f"it ended with status {returncode}"
    try:
        return f"it was ended by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"it was ended by signal {-returncode}"
