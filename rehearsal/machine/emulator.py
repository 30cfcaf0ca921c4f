"""QEMU's arm64 machine, as one process that ends with this one: its console, its network, and a way to run commands."""

from __future__ import annotations

import ctypes
import json
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rehearsal.client import free_port
from rehearsal.report import UnexpectedError
from rehearsal.root import Done

__all__ = ["AGENT", "PORT", "Booted", "Hardware", "booted"]

PORT: Final = 8000
"""The service's, in the machine."""

AGENT: Final = "edgeq.rehearsal"
"""Name of the serial port by which commands come into the machine."""

_CONSOLE_LINES: Final = 6
_DEATH_SIGNAL: Final = 1
"""PR_SET_PDEATHSIG of prctl(2)."""


@dataclass(frozen=True)
class Hardware:
    """What is switched on.

    Attributes:
        kernel, initramfs: files.
        disk: QEMU's -blockdev options, of which the last one has the node name `disk`.
        memory_mib: of the machine.
        processors: of it.
        words: of the kernel's command line.
    """

    kernel: Path
    initramfs: Path
    disk: tuple[str, ...]
    memory_mib: int = 2048
    processors: int = 2
    words: tuple[str, ...] = ()

    def command(self, *, port: int, agent: Path) -> list[str]:
        """The words that start it; the console is stdin and stdout."""
        blocks = [word for block in self.disk for word in ("-blockdev", block)]
        return [
            *("qemu-system-aarch64", "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"),
            *("-machine", "virt", "-cpu", "cortex-a76", "-accel", "tcg,thread=multi"),
            *("-smp", str(self.processors), "-m", str(self.memory_mib)),
            *("-kernel", str(self.kernel), "-initrd", str(self.initramfs)),
            *("-append", " ".join(("console=ttyAMA0", "panic=-1", "quiet", *self.words))),
            *blocks,
            *("-device", "virtio-blk-pci,drive=disk"),
            *("-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:{PORT}"),
            *("-device", "virtio-net-pci,netdev=net,romfile="),
            *("-device", "virtio-rng-pci"),
            *("-device", "virtio-serial-pci"),
            *("-chardev", f"socket,id=agent,path={agent},server=on,wait=off"),
            *("-device", f"virtserialport,chardev=agent,name={AGENT}"),
        ]


@dataclass
class Booted:
    """A machine that is switched on.

    Attributes:
        process: QEMU.
        address: of the service in it, as seen from here.
        lines: of its console, so far.
    """

    process: subprocess.Popen[bytes]
    address: str
    _agent: Path
    lines: list[str] = field(default_factory=list)
    _came: threading.Condition = field(default_factory=threading.Condition)
    _began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since it was switched on."""
        return round(time.monotonic() - self._began, 1)

    def wait_for(self, pattern: str, seconds: float, *, after: int = 0) -> re.Match[str]:
        """The first match in a line of its console.

        Args:
            pattern: a regular expression.
            seconds: to wait, at most.
            after: lines that are not looked at.

        Raises:
            UnexpectedError: it did not come, or the machine went off.
        """
        wanted, until = re.compile(pattern), time.monotonic() + seconds
        with self._came:
            while True:
                for line in self.lines[after:]:
                    if found := wanted.search(line):
                        return found
                after = len(self.lines)
                left = until - time.monotonic()
                if left <= 0 or self.process.poll() is not None:
                    what = "the machine went off" if left > 0 else f"not within {seconds:.0f} s"
                    last = " / ".join(self.lines[-_CONSOLE_LINES:])
                    raise UnexpectedError(f"{pattern!r}: {what}; its console: {last}")
                self._came.wait(min(left, 1.0))

    def run(self, *words: str, seconds: float = 300) -> Done:
        """Run a command in it as root.

        Raises:
            UnexpectedError: no answer came.
        """
        begin = time.monotonic()
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(seconds)
            line.connect(str(self._agent))
            line.sendall(json.dumps(words).encode() + b"\n")
            said = b""
            while not said.endswith(b"\n"):
                try:
                    more = line.recv(1 << 16)
                except TimeoutError as error:
                    raise UnexpectedError(f"{' '.join(words)}: no answer within {seconds:.0f} s") from error
                if not more:
                    raise UnexpectedError(f"{' '.join(words)}: the machine went off")
                said += more
        status, out, errors = json.loads(said)
        return Done(status, out, errors, time.monotonic() - begin)

    def cut_power(self) -> None:
        """Off, at once: SIGKILL of QEMU. What the machine had not written is lost."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def wait_off(self, seconds: float) -> None:
        """Wait until it has switched itself off.

        Raises:
            UnexpectedError: it did not.
        """
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise UnexpectedError(f"still on after {seconds:.0f} s: {' / '.join(self.lines[-3:])}") from error

    def read_console(self, log: Path) -> None:
        """Keep its console, in a file as well, until it is off; for a thread."""
        assert self.process.stdout is not None
        with log.open("ab") as kept:
            for raw in self.process.stdout:
                kept.write(raw)
                kept.flush()
                with self._came:
                    self.lines.append(raw.decode(errors="replace").strip())
                    self._came.notify_all()
        with self._came:
            self._came.notify_all()


@contextmanager
def booted(hardware: Hardware, log: Path) -> Iterator[Booted]:
    """A machine, from its power button to the end of the block, when it is switched off if it is still on.

    Args:
        hardware: of it.
        log: its console is appended to this file.
    """
    port, agent = free_port(), log.with_suffix(".agent")
    agent.unlink(missing_ok=True)
    process = subprocess.Popen(
        hardware.command(port=port, agent=agent),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=_die_with_parent,
    )
    machine = Booted(process, f"http://127.0.0.1:{port}", agent)
    reader = threading.Thread(target=machine.read_console, args=(log,), daemon=True)
    reader.start()
    try:
        yield machine
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()
        reader.join()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
