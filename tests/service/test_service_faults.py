"""A service whose accelerator is lost, or whose memory runs out: what clients, systemd and a camera's folder see."""

from __future__ import annotations

import socket
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_errors import LOST, NO_MEMORY
from PIL import Image
from running import (
    EMPTY,
    HOLD,
    WAIT_S,
    SimulatedRuntime,
    chat,
    classifying,
    data_uri,
    eventually,
    picture,
    running,
    talking,
)

from edgeq.errors import DeviceLostError, EngineError, OutOfMemoryError
from edgeq.runtime.vlm.stream import Failed
from edgeq.service.app import make_service
from edgeq.service.http.errors import as_request_error
from edgeq.service.http.notify import Notifier
from edgeq.service.server import Server, reserve
from edgeq.service.settings import ServiceSettings
from edgeq.service.watch import Watch

CHAT = "/v1/chat/completions"


class FlakyEngine:
    """An engine that fails as it is told to."""

    inputs: tuple[str, ...] = ("pixels",)
    outputs: tuple[str, ...] = ("logits",)

    def __init__(self) -> None:
        self.errors: list[Exception] = []
        self.runs = 0
        self.go = threading.Event()
        self.go.set()

    def run(self, feeds: Any, outputs: Any = None) -> dict[str, Any]:  # noqa: ARG002
        self.runs += 1
        assert self.go.wait(WAIT_S)
        if self.errors:
            raise self.errors.pop(0)
        return {"logits": np.asarray(feeds["pixels"]).mean(axis=(2, 3))}


def wrapped(error: Exception) -> EngineError:
    """As an engine gives an error of its library."""
    try:
        raise EngineError("it failed while running the graph") from error
    except EngineError as caught:
        return caught


@pytest.mark.parametrize("error", [LOST[0], wrapped(LOST[1])], ids=str)
def test_images_behind_a_lost_accelerator_are_told_at_once(error: Exception) -> None:
    engine = FlakyEngine()
    served = classifying(engine=engine)
    asked = {"image": data_uri()}
    with running(served) as service:
        assert service.http.post("/v1/classify", json=asked).status_code == 200
        engine.go.clear()
        engine.errors = [error] * 9
        answers: list[Any] = []

        def post() -> None:
            answers.append(service.http.post("/v1/classify", json=asked))

        clients = [threading.Thread(target=post) for _ in range(3)]
        for client in clients:
            client.start()
        assert served.seeing is not None
        figures = served.seeing
        eventually(lambda: figures.figures.running + figures.figures.waiting == 3)
        engine.go.set()
        for client in clients:
            client.join(WAIT_S)
        assert [answer.status_code for answer in answers] == [503] * 3
        assert {answer.json()["error"]["code"] for answer in answers} <= {"restarting", "draining"}
        assert engine.runs == 2, "one that was well, and the one that lost it"
        assert not served.alive


def test_memory_that_runs_out_on_an_image_is_its_own() -> None:
    engine = FlakyEngine()
    served = classifying(engine=engine)
    with running(served) as service:
        engine.errors = [wrapped(NO_MEMORY[0])]
        refused, answered = (service.http.post("/v1/classify", json={"image": data_uri()}) for _ in range(2))
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "out_of_memory")
        assert int(refused.headers["retry-after"]) > 0
        assert answered.status_code == 200
        assert served.alive


@pytest.mark.parametrize(
    ("error", "code"), [(DeviceLostError("lost"), "restarting"), (OutOfMemoryError("none left"), "out_of_memory")]
)
def test_a_client_is_told_to_come_again(error: Exception, code: str) -> None:
    runtime = SimulatedRuntime()
    with running(talking(runtime)) as service:
        found: list[Any] = []
        client = threading.Thread(target=lambda: found.append(service.http.post(CHAT, json=chat(HOLD))))
        client.start()
        eventually(lambda: len(runtime.asks) == 1)
        runtime.end("r1", Failed(error))  # type: ignore[arg-type]
        client.join(WAIT_S)
    assert (found[0].status_code, found[0].json()["error"]["code"]) == (503, code)
    assert "retry-after" in found[0].headers


def test_errors_of_libraries_are_told_apart_where_nothing_has_named_them() -> None:
    assert as_request_error(LOST[0]).code == "restarting"
    assert as_request_error(wrapped(NO_MEMORY[0])).code == "out_of_memory"
    assert as_request_error(wrapped(RuntimeError("a bug"))).code == "engine_failed"
    assert as_request_error(RuntimeError("a bug")).code == "internal_error"


def test_the_service_leaves_at_once_and_feeds_no_watchdog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is let go: `end` is the end of the process."""
    monkeypatch.setattr("edgeq.service.server._LOOK_S", 0.01)
    engine, ended = FlakyEngine(), threading.Event()
    served, settings = classifying(engine=engine), ServiceSettings(port=0)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(WAIT_S)
        server = Server(
            make_service(served, settings),
            settings,
            reserve("127.0.0.1", 0),
            Notifier(str(tmp_path / "notify"), watchdog=0.02),
            end=ended.set,
        )
        well: list[bool] = []
        thread = threading.Thread(target=lambda: well.append(server.run()))
        thread.start()
        assert systemd.recv(99) == b"READY=1"
        assert systemd.recv(99) == b"WATCHDOG=1"
        engine.errors = [LOST[0]]
        assert served.seeing is not None
        with pytest.raises(DeviceLostError):
            served.seeing.submit(_red()).result(WAIT_S)
        thread.join(WAIT_S)
        assert ended.is_set()
        assert well == [False]
        told: list[bytes] = []
        systemd.setblocking(False)
        while (one := _received(systemd)) is not None:
            told.append(one)
    assert b"STOPPING=1" in told
    assert b"WATCHDOG=1" not in told[told.index(b"STOPPING=1") :]


def test_a_step_that_could_not_be_captured_is_seen_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = SimulatedRuntime()
    with running(talking(runtime)) as service:
        assert service.http.get("/health/ready").json() == {"status": "ok", "reason": ""}
        assert 'edgeq_cuda_graphs_info{state="none"} 1.0' in service.http.get("/metrics").text
        monkeypatch.setattr(runtime, "snapshot", lambda: replace(EMPTY, cuda_graphs="failed"))
        ready = service.http.get("/health/ready")
        assert (ready.status_code, ready.json()["status"]) == (200, "ok")
        assert "kernel by kernel" in ready.json()["reason"]
        assert 'edgeq_cuda_graphs_info{state="failed"} 1.0' in service.http.get("/metrics").text


def test_an_image_on_which_the_accelerator_was_lost_stays_where_it_is(tmp_path: Path) -> None:
    """It is looked at again by the next process; nothing is moved to `failed`."""

    def look(_image: object) -> Any:
        raise DeviceLostError("lost")

    (tmp_path / "a.png").write_bytes(picture())
    watch = Watch(tmp_path, look, "m", lambda: 0.0)
    assert list(watch.turn()) == []
    with pytest.raises(DeviceLostError):
        list(watch.turn())
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def _red() -> Any:
    return Image.new("RGB", (8, 8), (200, 10, 10))


def _received(heard: socket.socket) -> bytes | None:
    try:
        return heard.recv(99)
    except BlockingIOError:
        return None
