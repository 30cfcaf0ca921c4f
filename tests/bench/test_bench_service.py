"""Clients of the benchmark against a real server with a simulated model, and against servers that are not ours."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from command import Edgeq, assert_refused
from PIL import Image
from running import HOLD, USAGE, SimulatedRuntime, eventually, running, talking

from edgeq.bench.answers import AnswerLoad
from edgeq.bench.service_clients import ServiceAddress, measure_service
from edgeq.errors import EngineError, InputError

if TYPE_CHECKING:
    from edgeq.pipeline.vlm import PreparedVlm

DIGEST = "0123456789abcdef" * 4
LOAD = AnswerLoad(Image.new("RGB", (9, 8), (3, 5, 7)), "what is it?", 16, repeats=5, warmup=1, clients=(1, 3))


def nothing(_stage: str, _done: int, _total: int) -> None:
    """Nobody looks."""


def test_every_client_asks_its_share_about_images_of_its_own() -> None:
    """One to warm up, five by one client, two by each of three. Each answer has four tokens by the service's count."""
    model = SimulatedRuntime()
    served = talking(model)
    with running(served) as service:
        rows = measure_service(ServiceAddress.of(service.url), LOAD, served.digest, nothing)
    assert [(row.clients, row.requests, row.tokens) for row in rows] == [
        (1, 5, 5 * USAGE.answer_tokens),
        (3, 6, 6 * USAGE.answer_tokens),
    ]
    assert all(0 < row.first_token.p50_ms <= row.answer.p50_ms for row in rows)
    assert len(model.asks) == 12
    pictures = {ask.images[0].tobytes() for ask in model.asks if isinstance(ask.images[0], Image.Image)}
    assert len(pictures) == 12
    assert {(ask.turns[-1].texts, ask.max_new_tokens) for ask in model.asks} == {(("what is it?",), 16)}


def test_another_bundle_is_served() -> None:
    with running(talking(SimulatedRuntime())) as service, pytest.raises(EngineError, match="another bundle"):
        measure_service(ServiceAddress.of(service.url), LOAD, DIGEST, nothing)


def test_a_token_is_wanted() -> None:
    served = talking(SimulatedRuntime())
    with running(served, token="secret-token-of-32-characters-abc") as service:
        with pytest.raises(EngineError, match="status 401"):
            measure_service(ServiceAddress.of(service.url), LOAD, served.digest, nothing)
        address = ServiceAddress.of(service.url, "secret-token-of-32-characters-abc")
        assert len(measure_service(address, LOAD, served.digest, nothing)) == 2


def test_an_interrupt_waits_for_no_answer() -> None:
    """A client waits for a service that says nothing more, when Ctrl-C comes."""
    model = SimulatedRuntime()
    served, waiting = talking(model), threading.Event()
    load = replace(LOAD, question=HOLD, warmup=0, repeats=1, clients=(3,))

    def report(stage: str, _done: int, _total: int) -> None:
        if stage.startswith("1 client"):
            threading.Thread(target=interrupt, daemon=True).start()

    def interrupt() -> None:
        eventually(lambda: len(model.asks) == 1)
        waiting.set()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with running(served) as service, pytest.raises(KeyboardInterrupt):
            measure_service(ServiceAddress.of(service.url), load, served.digest, report)
    finally:
        signal.signal(signal.SIGINT, before)
    assert waiting.is_set()
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("ThreadPool")] == []


def test_nobody_listens() -> None:
    with pytest.raises(EngineError, match="no service of edgeq answers") as caught:
        measure_service(ServiceAddress("127.0.0.1", 9), LOAD, DIGEST, nothing)
    assert caught.value.next_step == "edgeq serve BUNDLE"


@contextmanager
def answering(body: bytes) -> Iterator[str]:
    """A server that answers every question with these bytes."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(b'{"data": [{"id": "model"}]}')

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(body)

        def answer(self, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_arguments: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "no service of edgeq answers"),
        (b"data: {\n\n", "no service of edgeq answers"),
        (b"data: []\n\n", "no service of edgeq answers"),
        (b'data: {"choices": [{}]}\n\ndata: [DONE]\n\n', "no service of edgeq answers"),
        (b"data: " + b"[" * 2_000_000, "no service of edgeq answers"),
        (b'data: {"error": {"message": "out of memory"}}\n\n', "could not answer"),
        (b'data: {"system_fingerprint": "other"}\n\n', "another bundle is served"),
    ],
)
def test_what_is_no_answer(body: bytes, words: str) -> None:
    with answering(body) as url, pytest.raises(EngineError, match=words):
        measure_service(ServiceAddress.of(url), LOAD, DIGEST, nothing)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:8000",
        "https://127.0.0.1:8000",
        "http://10.0.0.1",
        "http://example.com",
        "http://[::1",
        "http://::",
    ],
)
def test_an_address_that_is_none_or_elsewhere(url: str) -> None:
    with pytest.raises(InputError, match="no address of a service on this machine"):
        ServiceAddress.of(url)


def test_addresses() -> None:
    assert ServiceAddress.of("http://localhost:8000/") == ServiceAddress("localhost", 8000)
    assert ServiceAddress.of("http://[::1]:81", "t") == ServiceAddress("::1", 81, "t")


def test_the_command(edgeq: Edgeq, prepared_vlm: PreparedVlm, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service has another bundle than the one that is named."""
    with running(talking(SimulatedRuntime())) as service:
        assert_refused(edgeq("bench", prepared_vlm.bundle, "--url", service.url), "another bundle is served there")
    refused = edgeq("bench", prepared_vlm.bundle, "--url", "http://127.0.0.1:9", "--threads", "1")
    assert_refused(refused, "go not with --url")
    monkeypatch.setattr("edgeq.bench.run.measure_service", lambda *_: ())
    assert edgeq("bench", prepared_vlm.bundle, "--url", "http://127.0.0.1:9", "--json").status == 0


def test_a_classifier_is_not_asked(edgeq: Edgeq, orin_bundle: Path) -> None:
    assert_refused(edgeq("bench", orin_bundle, "--url", "http://127.0.0.1:9"), "answers no questions")
