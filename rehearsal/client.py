"""A service under its unit's own command, and a client of it over HTTP."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rehearsal.report import UnexpectedError
from rehearsal.root import Machine

__all__ = [
    "ChatAnswer",
    "Running",
    "Unit",
    "chat",
    "classes",
    "free_port",
    "kill",
    "read_stream",
    "read_unit",
    "served",
    "stop",
]

_READY_S = 300.0
_END_S = 300.0
"""An emulated interpreter takes long to end."""


@dataclass(frozen=True)
class Unit:
    """What systemd runs.

    Attributes:
        command: of ExecStart.
        user: of User.
    """

    command: tuple[str, ...]
    user: str


def read_unit(text: str) -> Unit:
    """Command and user of a service unit.

    Raises:
        ValueError: it has not one of each.
    """
    values = dict[str, list[str]]()
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals and not key.startswith("#"):
            values.setdefault(key, []).append(value)
    (command,), (user,) = values.get("ExecStart", []), values.get("User", [])
    return Unit(tuple(command.split()), user)


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class Running:
    """A service that is ready.

    Attributes:
        address: of it, such as `http://127.0.0.1:8000`.
        process: its own.
        notified: what systemd was told, in its order.
        seconds: until it was ready.
    """

    address: str
    process: subprocess.Popen[bytes]
    notified: list[str]
    seconds: float


@contextmanager
def served(
    machine: Machine, words: Sequence[str], user: str, log: Path, *, seconds: float = _READY_S
) -> Iterator[Running]:
    """Run `edgeq serve` until the block ends; then its processes are killed, unless they have ended.

    Args:
        machine: that it runs on.
        words: the command, without a port.
        user: whose process it is.
        log: stderr's; it is appended to.
        seconds: until it must be ready.

    Raises:
        UnexpectedError: it ended, or it was not ready in time.
    """
    port, name = free_port(), "run/rehearsal-notify"
    place = machine.root / name if machine.enter else log.with_suffix(".notify")
    place.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told, log.open("ab") as errors:
        told.bind(str(place))
        place.chmod(0o777)
        told.setblocking(False)
        notify = f"/{name}" if machine.enter else str(place)
        process = subprocess.Popen(
            machine.command(*words, "--port", str(port), user=user),
            env={**machine.environment, "NOTIFY_SOCKET": notify},
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            start_new_session=True,
        )
        running = Running(f"http://127.0.0.1:{port}", process, [], 0.0)
        try:
            _wait_ready(running, told, log, seconds)
            yield running
        finally:
            kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """As when the power goes: every process of its session, at once."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def stop(running: Running) -> int:
    """Tell it to stop, as systemd does; gives its exit status.

    Raises:
        UnexpectedError: it went on.
    """
    os.killpg(running.process.pid, signal.SIGTERM)
    try:
        return running.process.wait(_END_S)
    except subprocess.TimeoutExpired as error:
        raise UnexpectedError(f"{_END_S:.0f} s after SIGTERM the service goes on") from error


def _wait_ready(running: Running, told: socket.socket, log: Path, seconds: float) -> None:
    begin = time.monotonic()
    while time.monotonic() - begin < seconds:
        with suppress(BlockingIOError):
            while True:
                running.notified.append(told.recv(4096).decode())
        if "READY=1" in running.notified and _ready(running.address):
            running.seconds = round(time.monotonic() - begin, 1)
            return
        if running.process.poll() is not None:
            last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-6:]
            raise UnexpectedError(f"the service ended with status {running.process.returncode}: {' '.join(last)}")
        time.sleep(0.2)
    raise UnexpectedError(f"not ready after {seconds:.0f} s; systemd was told {running.notified}")


def _ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health/ready", timeout=30) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def classes(address: str, image: Path, token: str = "") -> dict[str, float]:
    """What POST /v1/classify says of a PNG image: every class's label and score, the likeliest first."""
    body = json.dumps({"image": _data_uri(image), "top": 1000}).encode()
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    request = urllib.request.Request(f"{address}/v1/classify", body, headers)
    with urllib.request.urlopen(request, timeout=120) as answer:
        found: dict[str, Any] = json.load(answer)
    return {str(entry["label"]): float(entry["score"]) for entry in found["classes"]}


@dataclass(frozen=True)
class ChatAnswer:
    """A streamed answer.

    Attributes:
        text: whole.
        tokens: each with the logarithm of its probability.
        pieces: in which the text came.
    """

    text: str
    tokens: tuple[tuple[str, float], ...]
    pieces: int


def chat(address: str, image: Path, question: str, *, seconds: float = 1800) -> ChatAnswer:
    """What POST /v1/chat/completions streams about a PNG image: greedily, with the tokens' logarithms.

    Args:
        address: of the service.
        image: a PNG file.
        question: in plain text.
        seconds: the longest silence.

    Raises:
        UnexpectedError: the stream has an error in it, or does not come to its end.
    """
    parts = [{"type": "image_url", "image_url": {"url": _data_uri(image)}}, {"type": "text", "text": question}]
    asked = {"model": None, "messages": [{"role": "user", "content": parts}], "stream": True, "logprobs": True}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/v1/chat/completions", json.dumps(asked).encode(), headers)
    with urllib.request.urlopen(request, timeout=seconds) as answer:
        return read_stream(line.decode() for line in answer)


def read_stream(lines: Iterable[str]) -> ChatAnswer:
    """The answer in a stream of server-sent events; raises as `chat`."""
    text, tokens, pieces = "", list[tuple[str, float]](), 0
    for line in lines:
        data = line.strip().removeprefix("data: ")
        if data == "[DONE]":
            return ChatAnswer(text, tuple(tokens), pieces)
        if not data:
            continue
        event = json.loads(data)
        if "error" in event:
            raise UnexpectedError(str(event["error"]))
        for choice in event["choices"]:
            text += choice["delta"].get("content") or ""
            pieces += bool(choice["delta"].get("content"))
            found = (choice.get("logprobs") or {}).get("content") or []
            tokens += [(str(each["token"]), float(each["logprob"])) for each in found]
    raise UnexpectedError(f"the stream ended without [DONE], after {text!r}")


def _data_uri(image: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(image.read_bytes()).decode()}"
