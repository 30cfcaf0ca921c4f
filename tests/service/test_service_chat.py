"""Chat over a real port, with the official client and a simulated runtime."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import anyio
import openai
import pytest
from running import (
    ANSWER,
    HOLD,
    NAME,
    PIECES,
    WAIT_S,
    Running,
    SimulatedRuntime,
    chat,
    data_uri,
    eventually,
    image_part,
    opened,
    picture,
    post_bytes,
    question,
    received,
    running,
    said,
    talking,
    text_part,
)
from starlette.requests import ClientDisconnect

from edgeq.errors import EngineError, ImageError, InputError
from edgeq.runtime.scheduler.errors import BusyError, ContextError, DeadlineError, RefusedImageError, TooLargeError
from edgeq.runtime.vlm.api import IMAGE, GenerationRequest, Turn
from edgeq.runtime.vlm.stream import Stream
from edgeq.service.http.connection import EventStream

pytest_plugins = ["one_service"]

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def colours(ask: GenerationRequest) -> list[Any]:
    """Of the first pixel of each image."""
    return [opened(image).getpixel((0, 0)) for image in ask.images]


def test_an_answer_about_an_image(service: Running, runtime: SimulatedRuntime) -> None:
    answer = service.openai().chat.completions.create(
        model=NAME, messages=question(), temperature=0.5, top_p=0.9, seed=3, stop=["\n"], max_completion_tokens=9
    )
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert answer.object == "chat.completion"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (11, 4, 15)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 5
    assert answer.usage.prompt_tokens_details.image_tokens == 4
    times = ("queue_time", "prompt_time", "completion_time", "total_time")
    assert [getattr(answer.usage, name) for name in times] == [0.25, 1.25, 3.0, 4.5]
    ask = runtime.asks[-1]
    assert colours(ask) == [(200, 10, 10)]
    assert ask.turns == (Turn("user", (IMAGE, "what is it?")),)
    assert (ask.max_new_tokens, ask.stop) == (9, ("\n",))
    assert (ask.sampling.temperature, ask.sampling.top_p, ask.sampling.seed) == (0.5, 0.9, 3)


def test_it_is_greedy_unless_asked_otherwise(service: Running, runtime: SimulatedRuntime) -> None:
    service.openai().chat.completions.create(model=NAME, messages=question())
    assert runtime.asks[-1].sampling.temperature == 0


def test_an_answer_in_pieces(service: Running) -> None:
    pieces = list(
        service.openai().chat.completions.create(
            model=NAME, messages=question(), stream=True, stream_options={"include_usage": True}
        )
    )
    texts = [piece.choices[0].delta.content for piece in pieces if piece.choices]
    assert texts == ["", *PIECES, None]
    assert [piece.choices[0].finish_reason for piece in pieces if piece.choices] == [None] * 5 + ["stop"]
    assert len({piece.id for piece in pieces}) == 1
    assert not pieces[-1].choices
    assert pieces[-1].usage is not None
    assert pieces[-1].usage.total_tokens == 15


def test_the_events_as_they_are_sent(service: Running) -> None:
    answer = service.http.post("/v1/chat/completions", json=chat(stream=True))
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    lines = answer.text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    first = json.loads(lines[0].removeprefix("data: "))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert first["usage"] is None


def test_a_conversation(service: Running, runtime: SimulatedRuntime) -> None:
    messages: list[Any] = [
        {"role": "system", "content": "Be brief."},
        *question("what?"),
        {"role": "assistant", "content": "A crack."},
        {"role": "user", "content": [{"type": "text", "text": "where"}, {"type": "text", "text": "is it?"}]},
    ]
    service.openai().chat.completions.create(model=NAME, messages=messages)
    assert runtime.asks[-1].turns == (
        Turn("system", ("Be brief.",)),
        Turn("user", (IMAGE, "what?")),
        Turn("assistant", ("A crack.",)),
        Turn("user", ("where", "is it?")),
    )


@pytest.mark.parametrize("streamed", [False, True])
def test_no_image_at_all(service: Running, runtime: SimulatedRuntime, streamed: bool) -> None:
    body = {"model": NAME, "messages": [{"role": "user", "content": "hello"}], "stream": streamed}
    assert service.http.post("/v1/chat/completions", json=body).status_code == 200
    assert (runtime.asks[-1].images, runtime.asks[-1].turns) == ((), (Turn("user", ("hello",)),))


@pytest.mark.parametrize("streamed", [False, True])
def test_several_images_keep_their_places(service: Running, runtime: SimulatedRuntime, streamed: bool) -> None:
    """Among the texts of a message, and over the messages."""
    red, green, blue = (image_part(data_uri(picture(colour))) for colour in (RED, GREEN, BLUE))
    messages = [
        {"role": "user", "content": [text_part("from"), red, text_part("to"), green, text_part("what changed?")]},
        {"role": "assistant", "content": "The colour."},
        {"role": "user", "content": [blue, red, text_part("and here?")]},
    ]
    body = {"model": NAME, "messages": messages, "stream": streamed}
    assert service.http.post("/v1/chat/completions", json=body).status_code == 200
    ask = runtime.asks[-1]
    assert colours(ask) == [RED, GREEN, BLUE, RED]
    assert ask.turns == (
        Turn("user", ("from", IMAGE, "to", IMAGE, "what changed?")),
        Turn("assistant", ("The colour.",)),
        Turn("user", (IMAGE, IMAGE, "and here?")),
    )


def test_the_image_at_fault_is_named(service: Running, runtime: SimulatedRuntime) -> None:
    """By message and part; images before it are well."""
    before = len(runtime.asks)
    good = image_part(data_uri())
    half = image_part(data_uri(picture(side=64)[:-40]))
    for bad, status in ((image_part("data:,"), 400), (image_part(data_uri(b"GIF89a" + bytes(99))), 415), (half, 422)):
        messages = [
            {"role": "user", "content": [good, text_part("what?")]},
            {"role": "assistant", "content": "A crack."},
            {"role": "user", "content": [text_part("and"), good, bad, text_part("?")]},
        ]
        answer = service.http.post("/v1/chat/completions", json={"model": NAME, "messages": messages})
        assert (answer.status_code, answer.json()["error"]["param"]) == (status, "messages.2.content.2")
    assert len(runtime.asks) == before


def test_an_image_that_the_model_does_not_take_is_named(service: Running, runtime: SimulatedRuntime) -> None:
    runtime.refuses("too narrow?", RefusedImageError(1, ImageError("the model takes no image of 300 x 1 pixels")))
    content = [image_part(data_uri()), text_part("too narrow?"), image_part(data_uri())]
    body = {"model": NAME, "messages": [{"role": "user", "content": content}]}
    error = service.http.post("/v1/chat/completions", json=body)
    assert (error.status_code, error.json()["error"]["code"]) == (422, "image_unreadable")
    assert error.json()["error"]["param"] == "messages.0.content.2"


def about(images: int, **settings: Any) -> dict[str, Any]:
    """A request about so many images, one in each message of the user, and about the first of them once more."""
    urls = [data_uri(picture((number, 0, 0))) for number in range(images)]
    answer = {"role": "assistant", "content": "a"}
    said_before = [message for url in (*urls, urls[0]) for message in (*question(image=url), answer)]
    return {"model": NAME, "messages": said_before[:-1], **settings}


@pytest.mark.parametrize("streamed", [False, True])
def test_too_many_images(service: Running, runtime: SimulatedRuntime, streamed: bool) -> None:
    path, before = "/v1/chat/completions", len(runtime.asks)
    assert service.http.post(path, json=about(8, stream=streamed)).status_code == 200
    answer = service.http.post(path, json=about(9, stream=streamed))
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "too_many_images")
    assert answer.json()["error"]["message"] == "9 images; at most 8 can be asked about"
    assert len(runtime.asks) == before + 1


@pytest.mark.parametrize(("most_images", "max_images", "bound"), [(1, 8, 1), (5, 2, 2), (None, 2, 2)])
def test_too_many_images_are_not_even_looked_at(most_images: int | None, max_images: int, bound: int) -> None:
    """By the model or by the settings; what is told of both is what is done."""
    with running(talking(SimulatedRuntime(), most_images), max_images=max_images) as service:
        path = "/v1/chat/completions"
        assert service.http.get("/v1/models").json()["data"][0]["max_images"] == bound
        assert service.http.post(path, json=about(bound)).status_code == 200
        none = [image_part(f"data:,{number}") for number in range(bound + 1)]
        body = {"model": NAME, "messages": [{"role": "user", "content": [*none, text_part("what?")]}]}
        assert service.http.post(path, json=body).json()["error"]["code"] == "too_many_images"


def test_a_conversation_that_outgrows_the_context(service: Running, runtime: SimulatedRuntime) -> None:
    runtime.refuses("too long?", ContextError(4700, 4608, 4096))
    with service.openai() as client, pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model=NAME, messages=question("too long?"))
    assert (caught.value.status_code, caught.value.code) == (413, "context_length_exceeded")
    for number in ("4,700", "4,608", "4,096"):
        assert number in caught.value.message
    described = service.http.get("/openapi.json").json()["paths"]["/v1/chat/completions"]["post"]["responses"]["413"]
    example = described["content"]["application/json"]["example"]["error"]
    assert example["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("reason", "finish"), [("stop_string", "stop"), ("limit", "length"), ("context", "length"), ("stop", "stop")]
)
def test_why_it_ended(service: Running, runtime: SimulatedRuntime, reason: str, finish: str) -> None:
    runtime.answers(reason, said("One piece", reason))
    answer = service.http.post("/v1/chat/completions", json=chat(reason)).json()
    assert answer["choices"][0]["finish_reason"] == finish


FIRST = "messages.0.content.0"


def by(role: str) -> list[Any]:
    """A question about a picture in a message of somebody else."""
    return [{**question()[0], "role": role}]


REFUSED: list[tuple[str, dict[str, Any], int, str, str | None]] = [
    ("no name", chat() | {"model": ""}, 400, "bad_request", "model"),
    ("no messages", chat() | {"messages": []}, 400, "bad_request", "messages"),
    ("no model", {"messages": question()}, 400, "bad_request", "model"),
    ("unknown key", chat(toolbox=[]), 400, "bad_request", "toolbox"),
    ("two answers", chat(n=2), 400, "bad_request", "n"),
    ("a penalty", chat(presence_penalty=0.5), 400, "bad_request", "presence_penalty"),
    ("a word for a number", chat(max_tokens="9"), 400, "bad_request", "max_tokens"),
    ("no tokens", chat(max_tokens=0), 400, "bad_request", "max_tokens"),
    ("too hot", chat(temperature=3), 400, "bad_request", "temperature"),
    ("a role", chat() | {"messages": [{"role": "tool", "content": "a"}]}, 400, "bad_request", "messages.0.role"),
    ("an empty question", chat(" "), 422, "not_answerable", None),
    ("an empty stop", chat(stop=""), 422, "not_answerable", None),
    ("an empty message", chat(" ", "http://a.example/b"), 422, "not_answerable", None),
    ("the system's image", chat() | {"messages": by("system") + question()}, 422, "image_not_by_user", FIRST),
    ("the assistant's image", chat() | {"messages": by("assistant") + question()}, 422, "image_not_by_user", FIRST),
    ("nobody asks", chat() | {"messages": [{"role": "assistant", "content": "a"}]}, 422, "not_answerable", None),
    ("no address", chat(image="cat.jpg"), 400, "bad_image_url", FIRST),
    ("a file", chat(image="file:///etc/passwd"), 400, "bad_image_url", FIRST),
    ("a host", chat(image="http://example.com/a.jpg"), 400, "image_host_not_allowed", FIRST),
    ("not in base64", chat(image="data:image/png,abc"), 400, "bad_image_url", FIRST),
    ("bad base64", chat(image="data:image/png;base64,ab*="), 400, "bad_base64", FIRST),
    ("a PDF", chat(image=data_uri(media="application/pdf")), 415, "image_type", FIRST),
    ("a lie", chat(image=data_uri(b"GIF89a" + bytes(99))), 415, "image_type", FIRST),
    ("nothing in it", chat(image=data_uri(b"")), 415, "image_type", FIRST),
    ("half an image", chat(image=data_uri(picture(side=64)[:-40])), 422, "image_unreadable", FIRST),
]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "status", "code", "param"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_a_bad_request(
    service: Running, runtime: SimulatedRuntime, body: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    before = len(runtime.asks)
    for streamed in (False, True):
        answer = service.http.post("/v1/chat/completions", json=body | {"stream": streamed})
        assert answer.status_code == status, answer.text
        error = answer.json()["error"]
        assert (error["code"], error["param"]) == (code, param)
        assert error["type"] == "invalid_request_error"
        assert error["message"]
    assert len(runtime.asks) == before


@pytest.mark.parametrize(
    ("content", "media", "status", "code"),
    [
        (b"{", "application/json", 400, "not_json"),
        (b"", "application/json", 400, "not_json"),
        (b'"\xff"', "application/json", 400, "not_json"),
        (b"[" * 100_000, "application/json", 400, "not_json"),
        (b"[]", "application/json; charset=utf-8", 400, "bad_request"),
        (b"{}", "text/plain", 415, "media_type"),
        (b"{}", "", 415, "media_type"),
    ],
)
def test_a_body_that_is_none(service: Running, content: bytes, media: str, status: int, code: str) -> None:
    headers = {"content-type": media} if media else {}
    answer = service.http.post("/v1/chat/completions", content=content, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


FAILURES = [
    (TooLargeError(5_000, 4_000), 413, "too_much_memory", "invalid_request_error"),
    (ContextError(70, 8, 64), 413, "context_length_exceeded", "invalid_request_error"),
    (BusyError(7), 429, "busy", "rate_limit_error"),
    (DeadlineError(3), 408, "deadline", "timeout_error"),
    (EngineError("it broke"), 500, "engine_failed", "server_error"),
    (InputError("the conversation is too long"), 422, "not_answerable", "invalid_request_error"),
]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("where", ["refuses", "answers"])
@pytest.mark.parametrize(("error", "status", "code", "kind"), FAILURES, ids=[row[2] for row in FAILURES])
def test_the_runtime_refuses_or_fails_before_the_first_token(
    service: Running,
    runtime: SimulatedRuntime,
    error: Any,
    status: int,
    code: str,
    kind: str,
    where: str,
    streamed: bool,
) -> None:
    text = f"nothing comes of it: {code} {where}"
    getattr(runtime, where)(text, error)
    answer = service.http.post("/v1/chat/completions", json=chat(text, stream=streamed))
    assert answer.status_code == status
    told = answer.json()["error"]
    assert (told["code"], told["type"]) == (code, kind)
    assert error.what in told["message"]
    assert answer.headers.get("retry-after") == ("7" if status == 429 else None)


def test_the_official_client_raises_its_own_errors(service: Running, runtime: SimulatedRuntime) -> None:
    client = service.openai()
    runtime.refuses("busy", BusyError(2))
    for text, model, kind in (
        (" ", NAME, openai.UnprocessableEntityError),
        ("busy", NAME, openai.RateLimitError),
    ):
        with pytest.raises(kind) as caught:
            client.chat.completions.create(model=model, messages=question(text))
        assert caught.value.code
        assert caught.value.request_id


def test_an_error_in_the_middle_of_an_answer(service: Running, runtime: SimulatedRuntime) -> None:
    runtime.answers("break", EngineError("the model gave NaN"))
    pieces = iter(service.openai().chat.completions.create(model=NAME, messages=question("break"), stream=True))
    assert [next(pieces).choices[0].delta.content for _ in range(2)] == ["", "One piece"]
    with pytest.raises(openai.APIError, match="the model gave NaN"):
        next(pieces)


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_hangs_up_is_not_answered_any_more(
    service: Running, runtime: SimulatedRuntime, streamed: bool
) -> None:
    text = f"{HOLD}, {streamed}"
    with service.connect() as bare:
        bare.sendall(post_bytes("/v1/chat/completions", chat(text, stream=streamed)))
        if streamed:
            assert b"One piece" in received(bare, b"One piece")
        else:
            eventually(lambda: runtime.asks[-1].turns[-1].texts == (text,))
    assert runtime.cancelled.get(timeout=WAIT_S) == f"r{len(runtime.asks)}"
    eventually(lambda: service.service.traffic.active == 0)


class LateRuntime(SimulatedRuntime):
    """Takes its time to prepare an image: simulated."""

    def __init__(self) -> None:
        super().__init__()
        self.came, self.go = threading.Event(), threading.Event()

    def submit(self, ask: GenerationRequest, deadline_s: float | None = None) -> Stream:
        self.came.set()
        assert self.go.wait(WAIT_S)
        return super().submit(ask, deadline_s)


def test_a_client_that_hangs_up_while_its_image_is_prepared() -> None:
    """What is asked for only then is nobody's, and must not stay behind."""
    runtime = LateRuntime()
    with running(talking(runtime)) as service:
        with service.connect() as bare:
            bare.sendall(post_bytes("/v1/chat/completions", chat(HOLD)))
            assert runtime.came.wait(WAIT_S)
        runtime.go.set()
        assert runtime.cancelled.get(timeout=WAIT_S) == "r1"
        eventually(lambda: service.service.traffic.active == 0)


@pytest.mark.parametrize("streamed", [True, False])
def test_a_runtime_that_says_nothing_any_more(monkeypatch: pytest.MonkeyPatch, streamed: bool) -> None:
    """Its own deadline never comes; a little later the service gives up by itself."""
    monkeypatch.setattr("edgeq.service.routes.submit._GRACE_S", 0.0)
    runtime = SimulatedRuntime()
    with running(talking(runtime), request_seconds=0.2) as service:
        answer = service.http.post("/v1/chat/completions", json=chat(HOLD, stream=streamed))
        assert answer.status_code == (200 if streamed else 408)
        assert '"code":"deadline"' in answer.text
        assert runtime.cancelled.get(timeout=WAIT_S) == "r1"


def test_nothing_is_sent_before_the_first_piece() -> None:
    """So what goes wrong until then has a status of its own."""
    finished: list[bool] = []
    sent: list[object] = []

    async def pieces() -> AsyncIterator[bytes]:
        raise InputError("no")
        yield b""

    async def send(message: object) -> None:
        sent.append(message)

    async def stream() -> None:
        with pytest.raises(InputError, match="no"):
            await EventStream(pieces(), lambda: finished.append(True), 1)({}, anyio.sleep_forever, send)  # type: ignore[arg-type]

    anyio.run(stream)
    assert (sent, finished) == ([], [True])


def test_a_client_that_does_not_read() -> None:
    """What waits to be sent is given up after a while, and the answer with it."""
    finished: list[bool] = []

    async def pieces() -> AsyncIterator[bytes]:
        while True:
            yield b"data: 1\n\n"

    async def send(message: object) -> None:
        if "body" in str(message):
            await anyio.sleep_forever()

    async def stream() -> None:
        with pytest.raises(ClientDisconnect):
            await EventStream(pieces(), lambda: finished.append(True), 0.01)({}, anyio.sleep_forever, send)  # type: ignore[arg-type]

    anyio.run(stream)
    assert finished == [True]
