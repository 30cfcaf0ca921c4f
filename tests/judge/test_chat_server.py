"""Simulated servers of chat completions on a real port, and edgeq's own service before a simulated runtime."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from PIL import Image
from running import ANSWER, SimulatedRuntime, running, talking
from seeing_server import seeing_server

from edgeq.errors import EngineError, InputError
from edgeq.judge.chat_server import ChatServer, Pace
from edgeq.judge.questions import AskedQuestion

QUESTION = AskedQuestion("colour", "a.png", "Which colour?", lambda: Image.new("RGB", (4, 4), "red"), "red")


def sees(image: Image.Image, _question: str) -> str:
    return f" {image.getpixel((0, 0))} "


def test_an_answer_with_what_it_cost() -> None:
    with seeing_server(sees) as server:
        said = ChatServer(server.url).ask(QUESTION, QUESTION.png(), 9)
    (body,) = server.asked
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
        server.refuse = lambda _body: (429, {"Retry-After": "0.01"}) if len(server.asked) < 3 else None
        assert ChatServer(server.url).ask(QUESTION, QUESTION.png(), 9).text
        assert len(server.asked) == 3


def test_one_that_tells_no_log_probabilities() -> None:
    def refuse(body: dict[str, Any]) -> tuple[int, dict[str, str]] | None:
        return (400, {}) if body.get("logprobs") else None

    with seeing_server(sees) as server:
        server.refuse = refuse
        chat = ChatServer(server.url)
        assert [chat.ask(QUESTION, QUESTION.png(), 9).logprobs for _ in range(2)] == [(), ()]
        assert [body.get("logprobs") for body in server.asked] == [True, None, None]


def test_what_is_refused_is_told() -> None:
    with seeing_server(sees) as server:
        server.refuse = lambda _body: (400, {})
        with pytest.raises(EngineError, match=r"asked about a\.png") as raised:
            ChatServer(server.url).ask(QUESTION, QUESTION.png(), 9)
    assert "refused by the test" in str(raised.value)


def test_nobody_is_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(EngineError, match="which models it has"):
        ChatServer(f"http://127.0.0.1:{port}/v1")


def test_the_first_model_that_is_listed_is_asked() -> None:
    with seeing_server(sees, models=("one", "two")) as server:
        assert ChatServer(server.url).model == "one"
        assert ChatServer(server.url, "two").identity == f"server {server.url} model two"
    with seeing_server(sees, models=()) as server, pytest.raises(EngineError, match="lists no model"):
        ChatServer(server.url)


@pytest.mark.parametrize(
    ("url", "api"),
    [
        ("http://127.0.0.1:1", "http://127.0.0.1:1/v1"),
        ("http://127.0.0.1:1/", "http://127.0.0.1:1/v1"),
        ("http://127.0.0.1:1/v1/", "http://127.0.0.1:1/v1"),
        ("https://host/base/v1/chat/completions", "https://host/base/v1"),
    ],
)
def test_addresses(url: str, api: str) -> None:
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
