"""Simulated servers of chat completions on a real port, and edgeq's own service before a simulated runtime."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from running import ANSWER, SimulatedRuntime, running, talking
from seeing_server import HANGS_UP, seeing_server

from edgeq.errors import EngineError, InputError
from edgeq.judge.chat_server import ChatServer, Pace
from edgeq.judge.questions import AskedQuestion

Refuses = Callable[[dict[str, Any]], tuple[int, dict[str, str]] | None]
QUESTION = AskedQuestion("colour", "a.png", "Which colour?", lambda: Image.new("RGB", (4, 4), "red"), "red")


class QuietFiles(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing is logged."""


def sees(image: Image.Image, _question: str) -> str:
    return f" {image.getpixel((0, 0))} "


def test_an_answer_with_what_it_cost() -> None:
    with seeing_server(sees) as server:
        said = ChatServer(server.url).ask(QUESTION, QUESTION.png(), 9)
    first, body = server.asked
    assert (first["max_tokens"], first["messages"][0]["content"][1]["text"]) == (1, "Which colour?")
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("eyes", 0.0, 9)
    assert said.text == "(255, 0, 0)"
    assert said.logprobs == (-0.25,) * 3
    assert (said.prompt_tokens, said.answer_tokens) == (10, 3)


def test_edgeqs_own_service() -> None:
    with running(talking(SimulatedRuntime()), token="secret") as service:
        server = ChatServer(service.url, token="secret")
        assert server.ask(QUESTION, QUESTION.png(), 9).text == ANSWER


def test_a_busy_server_is_asked_again() -> None:
    with seeing_server(sees) as server:
        busy = (429, {"Retry-After": "0.01"})
        server.refuse = lambda _body: busy if len(server.asked) in (1, 3, 4) else None
        chat = ChatServer(server.url)
        assert len(server.asked) == 2
        assert chat.ask(QUESTION, QUESTION.png(), 9).text
        assert len(server.asked) == 5


def refusing(*fields: str) -> Refuses:
    """As servers do that know no such field."""
    return lambda body: (400, {}) if any(field in body for field in fields) else None


@pytest.mark.parametrize(
    ("refuses", "model", "kept"),
    [
        (refusing("logprobs"), None, {"model", "max_tokens"}),
        (refusing("model"), None, {"max_tokens"}),
        (refusing("logprobs", "max_tokens"), "eyes", {"model", "max_completion_tokens"}),
    ],
    ids=["no log-probabilities", "another name than is listed", "another name of the longest answer"],
)
def test_what_a_server_does_not_take_is_left_out(refuses: Refuses, model: str | None, kept: set[str]) -> None:
    with seeing_server(sees) as server:
        server.refuse = refuses
        chat = ChatServer(server.url, model)
        first = len(server.asked)
        assert [chat.ask(QUESTION, QUESTION.png(), 9).logprobs for _ in range(2)] == [(), ()]
        assert [{*body} - {"messages", "temperature"} for body in server.asked[first:]] == [kept, kept]


def test_a_connection_that_was_closed_is_opened_again() -> None:
    """As `transformers serve` closes that of its list, which failed."""
    with seeing_server(sees, models=None) as server:
        server.refuse = lambda _body: (HANGS_UP, {}) if len(server.asked) == 1 else None
        assert ChatServer(server.url).model == "eyes"
        assert len(server.asked) == 2


def test_a_server_that_hangs_up_is_told_at_once() -> None:
    with seeing_server(sees) as server:
        server.refuse = lambda _body: (HANGS_UP, {})
        with pytest.raises(EngineError, match="about a picture"):
            ChatServer(server.url)
        assert len(server.asked) == 2


@pytest.mark.parametrize("status", [400, 500])
def test_what_is_refused_is_told_at_once(status: int) -> None:
    with seeing_server(sees) as server:
        server.refuse = lambda _body: (status, {})
        with pytest.raises(EngineError, match="about a picture") as raised:
            ChatServer(server.url, "eyes")
        assert len(server.asked) == 3  # none of them twice
    assert "refused by the test" in str(raised.value)


def test_what_is_refused_later_is_told() -> None:
    with seeing_server(sees) as server:
        chat = ChatServer(server.url)
        server.refuse = lambda _body: (400, {})
        with pytest.raises(EngineError, match=r"asked about a\.png"):
            chat.ask(QUESTION, QUESTION.png(), 9)


@pytest.mark.parametrize("said", ["<think>green or red?</think> red", "green or red?</think>\n\nred"])
def test_thoughts_are_no_answer(said: str) -> None:
    with seeing_server(lambda _image, _question: said) as server:
        assert ChatServer(server.url).ask(QUESTION, QUESTION.png(), 9).text == "red"


@pytest.mark.parametrize("said", ["", "<think>green or"])
def test_an_answer_that_was_cut_off_while_it_thought(said: str) -> None:
    with seeing_server(lambda _image, _question: said) as server:
        server.ended = "length"
        with pytest.raises(EngineError, match="within 9 tokens"):
            ChatServer(server.url).ask(QUESTION, QUESTION.png(), 9)


def test_a_page_is_no_server(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "models").write_text("<html></html>")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietFiles, directory=str(tmp_path)))
    with server, ThreadPoolExecutor(1) as pool:
        pool.submit(server.serve_forever, 0.01)
        try:
            with pytest.raises(EngineError, match="about a picture"):
                ChatServer(f"http://127.0.0.1:{server.server_address[1]}")
        finally:
            server.shutdown()


def test_what_goes_along_with_each_question() -> None:
    with seeing_server(sees) as server:
        chat = ChatServer(server.url, extra_body={"repeat_penalty": 1.0})
        chat.ask(QUESTION, QUESTION.png(), 9)
        assert [body["repeat_penalty"] for body in server.asked] == [1.0, 1.0]
        assert chat.identity.endswith('model eyes with {"repeat_penalty": 1.0}')
    with pytest.raises(InputError, match="messages, temperature cannot"):
        ChatServer(server.url, extra_body={"temperature": 1, "messages": [], "top_k": 1})


def test_nobody_is_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(EngineError, match="which models it has"):
        ChatServer(f"http://127.0.0.1:{port}/v1")


def test_the_first_model_that_is_listed_is_asked() -> None:
    with seeing_server(sees, models=("one", "two")) as server:
        assert ChatServer(server.url).model == "one"
        assert ChatServer(server.url, "two").identity == f"server {server.url} model two"


@pytest.mark.parametrize("models", [(), None], ids=["an empty list", "no list"])
def test_without_a_list_no_name_is_sent(models: tuple[str, ...] | None) -> None:
    with seeing_server(sees, models=models) as server:
        assert ChatServer(server.url).identity == f"server {server.url} model eyes"  # by its answers
        assert "model" not in server.asked[0]


@pytest.mark.parametrize(
    ("url", "api"),
    [
        ("http://127.0.0.1:1", "http://127.0.0.1:1/v1"),
        ("http://127.0.0.1:1/", "http://127.0.0.1:1/v1"),
        ("http://127.0.0.1:1/v1/", "http://127.0.0.1:1/v1"),
        ("https://host/base/v1/chat/completions", "https://host/base/v1"),
    ],
)
def test_addresses(url: str, api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ChatServer, "_settled", lambda _self, dialect, **_: (dialect, ""))
    assert ChatServer(url, "named").url == api


@pytest.mark.parametrize(
    "url", ["ftp://host", "http://", "http://host:x/v1", "http://me:pw@host/v1", "http://h/v1?x=1"]
)
def test_no_addresses(url: str) -> None:
    with pytest.raises(InputError, match="no address"):
        ChatServer(url, "named")


def test_a_pace_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("edgeq.judge.chat_server.time.sleep", slept.append)
    monkeypatch.setattr("edgeq.judge.chat_server.time.monotonic", lambda: 100.0)
    pace = Pace(30.0)
    for _ in range(3):
        pace.wait()
    assert slept == [0.0, 2.0, 4.0]
    Pace(None).wait()
    assert len(slept) == 3
