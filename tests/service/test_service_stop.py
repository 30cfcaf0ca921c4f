"""Ready, draining, stopped; and what systemd is told meanwhile."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import (
    ANSWER,
    HOLD,
    WAIT_S,
    SimulatedRuntime,
    chat,
    eventually,
    post_bytes,
    received,
    running,
    said,
    talking,
)

from edgeq.errors import InputError
from edgeq.service.app import make_service
from edgeq.service.http.log import logged
from edgeq.service.http.notify import Notifier
from edgeq.service.server import Server, reserve
from edgeq.service.settings import ServiceSettings

CHAT = "/v1/chat/completions"


@pytest.fixture
def heard(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(WAIT_S)
        yield listener


def test_what_is_under_way_is_answered_and_what_comes_then_is_not(heard: socket.socket) -> None:
    runtime = SimulatedRuntime()
    notifier = Notifier(heard.getsockname())
    with (
        running(talking(runtime), notifier=notifier) as service,
        service.connect() as waiting,
        service.connect() as kept,
    ):
        assert heard.recv(99) == b"READY=1"
        waiting.sendall(post_bytes(CHAT, chat(HOLD)))
        eventually(lambda: len(runtime.asks) == 1)
        service.server.stop()
        assert heard.recv(99) == b"STOPPING=1"
        ready = service.http.get("/health/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "draining")
        assert service.http.get("/health/live").status_code == 200
        kept.sendall(post_bytes(CHAT, chat()))
        refused = received(kept, b"unavailable_error")
        assert b" 503 " in refused.splitlines()[0]
        assert b"retry-after: 5" in refused.lower()
        assert b"unavailable_error" in refused
        runtime.end("r1", said(ANSWER))
        assert ANSWER.encode() in received(waiting, ANSWER.encode())
        service.thread.join(WAIT_S)
        assert not service.thread.is_alive()
    assert runtime.closed == [True]


def test_the_second_signal_cancels_what_is_under_way() -> None:
    runtime = SimulatedRuntime()
    with running(talking(runtime)) as service, service.connect() as waiting:
        waiting.sendall(post_bytes(CHAT, chat(HOLD)))
        eventually(lambda: len(runtime.asks) == 1)
        service.server.stop()
        eventually(lambda: service.service.traffic.draining)
        service.server.stop()
        assert b" 503 " in waiting.recv(4096)
        service.thread.join(WAIT_S)
    assert runtime.closed == [False]


def test_patience_ends() -> None:
    runtime = SimulatedRuntime()
    with running(talking(runtime), drain_seconds=0) as service, service.connect() as waiting:
        waiting.sendall(post_bytes(CHAT, chat(HOLD, stream=True)))
        eventually(lambda: len(runtime.asks) == 1)
        service.server.stop()
        service.thread.join(WAIT_S)
        assert b"draining" in b"".join(iter(lambda: waiting.recv(4096), b""))
    assert runtime.closed == [False]


def test_the_watchdog_hears_of_a_worker_that_moves(heard: socket.socket) -> None:
    with running(talking(SimulatedRuntime()), notifier=Notifier(heard.getsockname(), watchdog=0.02)):
        assert heard.recv(99) == b"READY=1"
        assert [heard.recv(99) for _ in range(3)] == [b"WATCHDOG=1"] * 3


def test_the_watchdog_does_not_hear_of_one_that_is_stuck(heard: socket.socket) -> None:
    """Of three looks at a request that makes no progress only the first says that all is well."""
    runtime = SimulatedRuntime()
    looks = threading.Semaphore(0)
    plain = runtime.snapshot

    def snapshot() -> object:
        looks.release()
        return plain()

    runtime.snapshot = snapshot  # type: ignore[method-assign,assignment]
    with running(talking(runtime), notifier=Notifier(heard.getsockname(), watchdog=0.02)) as service:
        with service.connect() as waiting:
            waiting.sendall(post_bytes(CHAT, chat(HOLD)))
            eventually(lambda: len(runtime.asks) == 1)
            for _ in range(3):
                assert looks.acquire(timeout=WAIT_S)
            heard.setblocking(False)
            while _receives(heard):
                pass
            while looks.acquire(blocking=False):
                pass
            for _ in range(3):
                assert looks.acquire(timeout=WAIT_S)
            assert not _receives(heard)
        heard.settimeout(WAIT_S)
        assert heard.recv(99) == b"WATCHDOG=1"  # the client has hung up: there is nothing to do


def _receives(heard: socket.socket) -> bool:
    try:
        return bool(heard.recv(99))
    except BlockingIOError:
        return False


def test_a_worker_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeq.service.server._LOOK_S", 600.0)
    runtime = SimulatedRuntime()
    with running(talking(runtime)) as service:
        runtime.alive = False
        for path in ("/health/live", "/health/ready"):
            answer = service.http.get(path)
            assert (answer.status_code, answer.json()["status"]) == (503, "failing")


def test_where_the_worker_has_ended_the_service_ends_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = SimulatedRuntime()
    monkeypatch.setattr("edgeq.service.server._LOOK_S", 0.01)
    settings = ServiceSettings(port=0)
    server = Server(make_service(talking(runtime), settings), settings, reserve("127.0.0.1", 0))
    well: list[bool] = []
    lines = io.StringIO()
    with logged("info", lines):
        thread = threading.Thread(target=lambda: well.append(server.run()))
        thread.start()
        runtime.alive = False
        thread.join(WAIT_S)
    assert well == [False]
    assert "worker_ended" in lines.getvalue()


def test_what_cannot_be_cancelled_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that does not come back, as a decoder's: the process is ended over it."""
    monkeypatch.setattr("edgeq.service.server.LAST_S", 0.0)
    runtime, ended, go = SimulatedRuntime(), threading.Event(), threading.Event()
    monkeypatch.setattr(runtime, "close", lambda _drain=True: go.wait(WAIT_S))
    settings = ServiceSettings(port=0, drain_seconds=0)
    ready = threading.Event()
    server = Server(
        make_service(talking(runtime), settings),
        settings,
        reserve("127.0.0.1", 0),
        ready=lambda _address: ready.set(),
        end=ended.set,
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    assert ready.wait(WAIT_S)
    server.stop()
    assert ended.wait(WAIT_S)
    go.set()
    thread.join(WAIT_S)


def test_a_port_in_use() -> None:
    with reserve("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} of 127.0.0.1 is in use"):
            reserve("127.0.0.1", port)


def test_two_that_start_for_the_same_port_at_once() -> None:
    settings = ServiceSettings()
    with reserve("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with reserve("127.0.0.1", port) as second:
            first.listen()
            server = Server(make_service(talking(SimulatedRuntime()), settings), settings, second)
            with pytest.raises(InputError, match=f"port {port} of 127.0.0.1 is in use"):
                server.run()


def test_small_pieces_are_not_held_back() -> None:
    """asyncio turns TCP's delay (40 ms on a connection that is used again) off where a socket says that it is TCP's."""
    with reserve("127.0.0.1", 0) as listener:
        listener.listen()
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.proto == socket.IPPROTO_TCP


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid", "300.1.1.1"])
def test_an_address_of_another_machine(host: str) -> None:
    with pytest.raises(InputError, match=host):
        reserve(host, 0)
