"""Run one program in a fresh process: its answer, its wall time, its peak memory.

The orchestrator imports nothing large: on Linux a child begins with its parent's peak for a floor.
"""

from __future__ import annotations

import json
import os
import platform
import random
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

__all__ = ["ROOT", "Run", "free_port", "processor", "run_module", "serving_process", "url_answers"]

ROOT = Path(__file__).resolve().parents[1]
POLL_SECONDS = 0.02
_START_SECONDS, _END_SECONDS = 600.0, 60.0
_SHOWN = 400
_PORTS, _TRIES = range(20_000, 32_768), 100


@dataclass(frozen=True)
class Run:
    """What one process did.

    Attributes:
        wall: seconds from its start to its end, imports included.
        peak: its largest resident memory, in bytes, as the kernel counted it (`ru_maxrss`).
        scales_peak: the same once the scales were made; None where the tool cannot be stopped there.
        version: of the tool.
        seconds: `scales`, images on disk to scales, where the tool can be stopped there; `model`, to the INT8 model.
        failure: why there is no answer; empty where there is one.
    """

    wall: float
    peak: int
    scales_peak: int | None = None
    version: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    failure: str = ""


def processor() -> str:
    """Its name, as Linux has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def run_module(python: Path, module: str, arguments: Sequence[str], *, memory_limit: int) -> Run:
    """Run `python -m module arguments` from the root of the checkout.

    Args:
        python: the interpreter of the environment that has the tool.
        memory_limit: bytes of resident memory beyond which the process is stopped.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as log:
        start = time.perf_counter()
        process = subprocess.Popen(
            [str(python), "-m", module, *arguments], cwd=ROOT, env=environment, stdout=answer, stderr=log
        )
        peak, stopped = _wait(process, memory_limit)
        wall = time.perf_counter() - start
        if stopped:
            return Run(wall, peak, failure=f"stopped at {memory_limit / 1e9:.0f} GB")
        if process.returncode != 0:
            return Run(wall, peak, failure=f"exit status {process.returncode}: {_tail(log)}")
        return _answered(wall, peak, answer)


def free_port() -> int:
    """One of this machine's that was free just now, and that Linux gives to nobody who asks for any."""
    for port in random.sample(_PORTS, _TRIES):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise OSError(f"none of {_TRIES} ports from {_PORTS.start} to {_PORTS.stop - 1} is free")


def url_answers(url: str) -> bool:
    """Whether a server answers at an address."""
    try:
        with urllib.request.urlopen(url, timeout=10):
            return True
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def serving_process(
    command: Sequence[str], answers: Callable[[], bool], environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A server that has begun to answer, until the block ends; ends the program where it does not.

    Args:
        command: that runs it, from the root of the checkout.
        answers: asks it.
        environment: as for `subprocess.Popen`.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=ROOT)
        try:
            begun = time.monotonic()
            while not answers():
                if process.poll() is not None or time.monotonic() - begun > _START_SECONDS:
                    raise SystemExit(f"a server did not start: {_tail(log)}")
                time.sleep(POLL_SECONDS)
            yield process
        finally:
            process.terminate()
            process.wait(_END_SECONDS)


def _wait(process: subprocess.Popen[bytes], memory_limit: int) -> tuple[int, bool]:
    """Peak resident memory in bytes, and whether the process had to be stopped."""
    stopped = False
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return usage.ru_maxrss * 1024, stopped
        if not stopped and _resident(process.pid) > memory_limit:
            process.kill()
            stopped = True
        time.sleep(POLL_SECONDS)


def _resident(pid: int) -> int:
    """Bytes that a process holds now; 0 where the system does not tell."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _answered(wall: float, peak: int, answer: IO[bytes]) -> Run:
    answer.seek(0)
    lines = [line for line in answer.read().decode(errors="replace").splitlines() if line.startswith('{"version"')]
    if not lines:
        return Run(wall, peak, failure="it ended without an answer")
    told = json.loads(lines[-1])
    return Run(wall, peak, told["scales_peak"], told["version"], told["seconds"])


def _tail(log: IO[bytes]) -> str:
    """The last line of the log."""
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines() or ["no message"]
    return lines[-1][:_SHOWN]
