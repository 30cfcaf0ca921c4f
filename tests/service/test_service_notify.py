"""What systemd hears, on a real datagram socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeq.service.http.notify import Notifier


@pytest.fixture
def heard(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5)
        yield listener


def test_each_word_is_one_datagram(heard: socket.socket) -> None:
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": heard.getsockname()})
    notifier.ready()
    notifier.alive()
    notifier.status("two\nlines  of it")
    notifier.stopping()
    assert [heard.recv(100) for _ in range(4)] == [b"READY=1", b"WATCHDOG=1", b"STATUS=two lines of it", b"STOPPING=1"]


def test_an_abstract_name() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0edgeq-test-{os.getpid()}")
        listener.settimeout(5)
        Notifier(f"@edgeq-test-{os.getpid()}").ready()
        assert listener.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", ["", "/nowhere/at/all", "@nobody-listens-here"])
def test_nobody_listens(address: str) -> None:
    Notifier(address).ready()


@pytest.mark.parametrize(
    ("environment", "period"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdogs_period(environment: dict[str, str], period: float | None) -> None:
    assert Notifier.from_environment(environment).watchdog == pytest.approx(period)
