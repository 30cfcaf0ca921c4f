"""What is told of each report: a command or a URL, in the background, with bounds of time and number."""

from __future__ import annotations

import http.client
import os
import queue
import shlex
import shutil
import signal
import subprocess
import threading
import time
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final
from urllib.parse import unquote, urlsplit

from edgeq.errors import InputError
from edgeq.frames.address import without_secrets

__all__ = ["Hook"]

_AT_ONCE: Final = 4
_WAITING: Final = 64
_TIMEOUT_S: Final = 10.0
_SILENCE_S: Final = 60.0

_Send = Callable[[bytes, float], None]
"""Takes a report and seconds; raises OSError or http.client.HTTPException."""


class Hook:
    """Hands each report on as JSON: to a command's stdin, or to a URL by POST. Nothing waits for it.

    No more than four are under way at once and 64 wait; of more the newest is left out. What takes longer than its time
    is ended. Failures are counted, and told of at most once a minute.

    Args:
        target: an http or https URL, or a command with its arguments, which no shell reads.
        say: told in a sentence of failures; called from another thread.
        timeout: seconds for each.

    Raises:
        InputError: the target can never be called.

    Attributes:
        sent, failed, left_out: so far.
    """

    def __init__(self, target: str, say: Callable[[str], None], timeout: float = _TIMEOUT_S) -> None:
        self._name = without_secrets(target)
        self._send = _to_url(target) if target.partition("://")[0] in ("http", "https") else _to_command(target)
        self._say, self._timeout = say, timeout
        self._waiting: queue.Queue[bytes | None] = queue.Queue(_WAITING)
        self._lock = threading.Lock()
        self._silent_until = 0.0
        self.sent = self.failed = self.left_out = 0
        self._threads = [threading.Thread(target=self._run, name="edgeq-hook", daemon=True) for _ in range(_AT_ONCE)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Hook:
        """The hook itself; what waits is still sent at the end, for as long as one may take."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let what waits be sent."""
        self.close()

    def send(self, report: str) -> None:
        """Hand a report over, and go on at once.

        Args:
            report: a JSON text.
        """
        try:
            self._waiting.put_nowait(report.encode())
        except queue.Full:
            with self._lock:
                self.left_out += 1
            self._fail("it does not follow: reports are left out")

    def close(self) -> None:
        """Send what waits, and give up what is not done in the time that one may take."""
        end = time.monotonic() + self._timeout
        for _ in self._threads:
            with suppress(queue.Full):
                self._waiting.put(None, timeout=max(end - time.monotonic(), 0))
        for thread in self._threads:
            thread.join(max(end - time.monotonic(), 0) + 1)

    def _run(self) -> None:
        while (report := self._waiting.get()) is not None:
            try:
                self._send(report, self._timeout)
            except Exception as error:  # of whatever it calls: the thread goes on with the next
                with self._lock:
                    self.failed += 1
                self._fail(str(error) or type(error).__name__)
            else:
                with self._lock:
                    self.sent += 1

    def _fail(self, why: str) -> None:
        """Say it, unless something was said lately."""
        with self._lock:
            now = time.monotonic()
            if now < self._silent_until:
                return
            self._silent_until = now + _SILENCE_S
            told = f"--on-report {self._name}: {without_secrets(why)} ({self.failed + self.left_out} failed so far)"
        self._say(told)


def _to_command(target: str) -> _Send:
    """Start a command for each report; it and what it started is killed when its time is over."""
    try:
        words = shlex.split(target)
    except ValueError as error:
        raise InputError(f"--on-report: {target} is no command: {error}") from error
    if not words or shutil.which(words[0]) is None:
        raise InputError(
            f"--on-report: there is no command {words[0] if words else target!r}",
            expected="a program with its arguments, or an http or https URL",
            causes=("no shell reads it: for one write `sh -c '…'`",),
        )

    def send(report: bytes, seconds: float) -> None:
        process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True, close_fds=True
        )
        try:
            process.communicate(report, timeout=seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"it took longer than {seconds:g} s, and was killed") from None
        finally:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            if process.stdin is not None:
                with suppress(OSError):
                    process.stdin.close()
        if process.returncode:
            raise OSError(f"it ended with status {process.returncode}")

    return send


def _to_url(target: str) -> _Send:
    """POST each report; no redirect is followed, and no proxy asked."""
    parts = urlsplit(target)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host:
        raise InputError(f"--on-report: {without_secrets(target)} names no host")
    headers = {"Content-Type": "application/json"}
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {b64encode(login.encode()).decode()}"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection

    def send(report: bytes, seconds: float) -> None:
        end = time.monotonic() + seconds
        connection = kind(host, port, timeout=seconds)
        timer = threading.Timer(seconds, _cut, (connection,))  # the socket's own timeout is of one byte, not of all
        timer.daemon = True
        timer.start()
        try:
            connection.request("POST", path, report, headers)
            status = connection.getresponse().status
        finally:
            timer.cancel()
            connection.close()
        if time.monotonic() >= end:  # what was cut off may look like an answer
            raise TimeoutError(f"it took longer than {seconds:g} s")
        if not 200 <= status < 300:
            raise OSError(f"it answered with status {status}")

    return send


def _cut(connection: http.client.HTTPConnection) -> None:
    """End a connection that another thread waits for."""
    if connection.sock is not None:
        with suppress(OSError):
            connection.sock.shutdown(2)
