"""What every request goes through: tokens, names, limits, slow and broken clients, the log."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import openai
import pytest
from running import (
    ANSWER,
    HOLD,
    NAME,
    Running,
    SimulatedRuntime,
    chat,
    data_uri,
    eventually,
    image_part,
    noise,
    picture,
    post_bytes,
    question,
    received,
    running,
    talking,
    text_part,
)

from edgeq.errors import InputError
from edgeq.service.http.access import is_loopback, read_tokens
from edgeq.service.http.log import log, logged, request_id
from edgeq.service.http.protocol import HEADER_BYTES
from edgeq.service.http.request_body import RequestBodies, body_limit

pytest_plugins = ["one_service"]

TOKEN = "0123456789abcdef-secret"
CHAT = "/v1/chat/completions"
LIVE = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
SMALL_MIB = 0.01
SMALL: dict[str, Any] = {
    "image_mib": SMALL_MIB,
    "images_mib": SMALL_MIB,
    "image_megapixels": 0.01,
    "images_megapixels": 0.02,
}


@pytest.fixture(scope="module")
def service(runtime: SimulatedRuntime) -> Iterator[Running]:
    """Images of 10 KiB and 0.01 million pixels at most, all together twice as many pixels; a second to come in."""
    with running(talking(runtime), **SMALL, body_seconds=1) as service:
        yield service


@pytest.fixture(scope="module")
def locked() -> Iterator[Running]:
    with running(talking(SimulatedRuntime()), token=TOKEN) as service:
        yield service


def answered(bare: socket.socket) -> tuple[int, str]:
    """Status and error code of what comes on a connection that is closed behind it."""
    found = b"".join(iter(lambda: bare.recv(4096), b""))
    head, _, body = found.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]["code"]


# ---- who may ask


def test_the_right_token(locked: Running) -> None:
    answer = locked.openai(TOKEN).chat.completions.create(model=NAME, messages=question())
    assert answer.choices[0].message.content == ANSWER
    assert locked.http.get("/v1/models", headers={"authorization": f"bearer {TOKEN}"}).status_code == 200


@pytest.mark.parametrize(
    "given", ["", TOKEN, f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", "Bearer", "ä"]
)
@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/openapi.json", "/nowhere"])
def test_another_token(locked: Running, given: str, path: str) -> None:
    answer = locked.http.get(path, headers={b"authorization": given.encode("latin-1")})
    assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_the_official_client_with_another_token(locked: Running) -> None:
    with pytest.raises(openai.AuthenticationError):
        locked.openai("wrong").models.list()


def test_health_is_told_to_everybody(locked: Running) -> None:
    for path in ("/health/live", "/health/ready"):
        answer = locked.http.get(path, headers={"authorization": ""})
        assert (answer.status_code, answer.json()["status"]) == (200, "ok")


@pytest.mark.parametrize(
    ("host", "status"), [("localhost:80", 200), ("127.0.0.1", 200), ("[::1]:9", 200), ("a.example", 400)]
)
def test_a_page_in_a_browser_cannot_come_by_another_name(service: Running, host: str, status: int) -> None:
    assert service.http.get("/v1/models", headers={"host": host}).status_code == status


@pytest.mark.parametrize(
    ("host", "own"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("10.0.0.1", False)],
)
def test_which_addresses_need_a_token(host: str, own: bool) -> None:
    assert is_loopback(host) is own
    if own:
        assert read_tokens(host, None, {}) == ()
    else:
        with pytest.raises(InputError, match="must bring a token"):
            read_tokens(host, None, {})
    assert read_tokens(host, None, {"EDGEQ_TOKEN": TOKEN}) == (TOKEN,)


def test_the_file_goes_before_the_variable(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n\n# another one\n{TOKEN}-2\n")
    assert read_tokens("0.0.0.0", tmp_path / "token", {"EDGEQ_TOKEN": "x" * 20}) == (TOKEN, f"{TOKEN}-2")


def test_a_token_that_is_there_twice(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n{TOKEN}\n")
    with pytest.raises(InputError, match="1 of them different"):
        read_tokens("127.0.0.1", tmp_path / "token", {})


@pytest.mark.parametrize(
    "text",
    ["", "# a comment alone", f"{TOKEN}\nshort", "short", "with a space in the middle", "ümläute-and-more-of-it"],
)
def test_a_token_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "token").write_text(text)
    with pytest.raises(InputError, match="cannot be used"):
        read_tokens("127.0.0.1", tmp_path / "token", {})
    with pytest.raises(InputError, match="cannot be read"):
        read_tokens("127.0.0.1", tmp_path / "nowhere", {})


# ---- where


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/page"), ("GET", "/v1/models/"), ("POST", "/v1/embed/x"), ("GET", "/%2e%2e/a")]
)
def test_nothing_is_there(service: Running, method: str, path: str) -> None:
    answer = service.http.request(method, path)
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "invalid_request_error")


def test_another_method(service: Running) -> None:
    answer = service.http.get(CHAT)
    assert (answer.status_code, answer.headers["allow"], answer.json()["error"]["code"]) == (405, "POST", "method")


# ---- limits


def test_the_largest_body_and_one_byte_more(service: Running) -> None:
    most = body_limit(int(SMALL_MIB * 2**20))
    body = json.dumps(chat(image=data_uri(picture()))).encode()
    assert (
        service.http.post(CHAT, content=body.ljust(most), headers={"content-type": "application/json"}).status_code
        == 200
    )
    over = body.ljust(most + 1)
    for content in (over, iter([over[:99], over[99:]])):  # with a length in the header, and without
        answer = service.http.post(CHAT, content=content, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
        assert answer.headers["connection"] == "close"


def test_a_client_that_writes_a_body_far_too_large_sees_why_it_is_refused(service: Running) -> None:
    with service.connect() as bare:
        bare.sendall(post_bytes(CHAT, bytes(7 << 20)))
        assert answered(bare) == (413, "body_too_large")


def test_a_body_that_was_not_wanted_does_not_keep_a_connection_open(service: Running) -> None:
    """It has as much time as a header."""
    with service.connect() as bare:
        bare.sendall(post_bytes("/nothing", b"", headers={"Content-Length": "1000000"}))
        assert received(bare, b"not_found")
        bare.sendall(b"x" * 100_000)
        assert answered(bare) == (408, "header_too_slow")


def test_a_length_that_is_a_lie_is_not_waited_for(service: Running) -> None:
    with service.connect() as bare:
        bare.sendall(post_bytes(CHAT, b"{}", headers={"Content-Length": str(10**15)}))
        assert answered(bare) == (413, "body_too_large")


def test_a_client_that_asks_first_is_not_told_to_send_what_is_not_wanted(service: Running) -> None:
    with service.connect() as bare:
        bare.sendall(post_bytes(CHAT, b"", headers={"Content-Length": str(10**7), "Expect": "100-continue"}))
        assert received(bare, b"body_too_large").startswith(b"HTTP/1.1 413 ")


def test_an_image_of_too_many_bytes_or_pixels(service: Running) -> None:
    for data, kind in ((noise(64), "bytes"), (picture(side=101), "pixels")):
        answer = service.http.post(CHAT, json=chat(image=data_uri(data)))
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "image_too_large")
        assert kind in answer.json()["error"]["message"]
    assert service.http.post(CHAT, json=chat(image=data_uri(picture(side=100)))).status_code == 200


def test_images_of_too_many_bytes_or_pixels_together(service: Running, runtime: SimulatedRuntime) -> None:
    """Each alone is small enough."""
    before = len(runtime.asks)
    large = [noise(45, seed) for seed in range(3)], [picture((seed, 0, 0), side=100) for seed in range(3)]
    for images, kind in zip(large, ("bytes", "pixels"), strict=True):
        first = chat() | {"messages": question(image=data_uri(images[0]))}
        assert service.http.post(CHAT, json=first).status_code == 200
        content = [*(image_part(data_uri(data)) for data in images), text_part("what?")]
        answer = service.http.post(CHAT, json=chat() | {"messages": [{"role": "user", "content": content}]})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (413, "images_too_large")
        assert kind in error["message"]
        assert error["param"] == ("messages.0.content.1" if kind == "bytes" else "messages.0.content.2")
    assert len(runtime.asks) == before + 2


# ---- slow and broken clients


def test_a_body_that_does_not_come(service: Running) -> None:
    with service.connect() as bare:
        bare.sendall(post_bytes(CHAT, chat())[:-30])
        assert answered(bare) == (408, "body_too_slow")


@pytest.mark.parametrize("begun", [b"", b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nX-Slow: "])
def test_a_header_that_does_not_come(service: Running, begun: bytes) -> None:
    with service.connect() as bare:
        bare.sendall(begun)
        assert answered(bare) == (408, "header_too_slow")


@pytest.mark.parametrize("begun", [b"\r\n", LIVE[:-4]])
def test_the_next_header_does_not_come(service: Running, begun: bytes) -> None:
    """Nor may a new line alone keep a connection open."""
    with service.connect() as bare:
        bare.sendall(LIVE)
        assert bare.recv(4096).startswith(b"HTTP/1.1 200 OK")
        bare.sendall(begun)
        assert answered(bare) == (408, "header_too_slow")


def test_a_header_that_does_not_end(service: Running) -> None:
    with service.connect() as bare:
        bare.sendall(LIVE[:-2] + b"X-Long: " + b"x" * (HEADER_BYTES - 1000))
        bare.sendall(b"x" * 2000)
        assert answered(bare) == (431, "header_too_large")


def test_a_long_header_before_a_long_body(service: Running) -> None:
    with service.connect() as bare:
        bare.sendall(post_bytes(CHAT, chat(), headers={"X-Long": "x" * (HEADER_BYTES - 1000), "Connection": "close"}))
        assert bare.recv(4096).startswith(b"HTTP/1.1 200 OK")


def test_two_requests_at_once_are_answered_in_turn(service: Running) -> None:
    with service.connect() as bare:
        bare.sendall(LIVE + LIVE.replace(b"live", b"none"))
        found = b""
        while found.count(b"HTTP/1.1 ") < 2:
            piece = bare.recv(4096)
            assert piece, "the connection was closed too early"
            found += piece
    assert [answer.split()[0] for answer in found.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404"]


def test_a_flood_of_requests_at_once_ends_the_connection(service: Running) -> None:
    with service.connect() as bare:
        bare.sendall(LIVE * 1000)
        found = b""
        with suppress(ConnectionError):
            found = b"".join(iter(lambda: bare.recv(4096), b""))
    assert found.count(b"HTTP/1.1 200 OK") <= 17
    assert service.http.get("/health/live").status_code == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01 hello\r\n\r\n",
        LIVE.replace(b"Host: localhost\r\n", b""),
        LIVE.replace(b"Host: localhost\r\n", b"Host: localhost\r\nHost: elsewhere\r\n"),
        LIVE.replace(b"\r\n\r\n", b"\r\nno colon\r\n\r\n"),
        LIVE.replace(b"\r\n", b"\n"),
        LIVE.replace(b"localhost", b"local\0host"),
        LIVE.replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
        LIVE.replace(b"GET", b"POST").replace(
            b"\r\n\r\n", b"\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        ),
        post_bytes(CHAT, b"zz\r\n{}", headers={"Transfer-Encoding": "chunked"}).replace(b"Content-Length: 6\r\n", b""),
    ],
)
def test_what_is_no_http(service: Running, sent: bytes) -> None:
    with service.connect() as bare:
        bare.sendall(sent)
        assert answered(bare) == (400, "bad_http")
    eventually(lambda: service.service.traffic.active == 0)


def test_a_client_that_goes_away_in_the_middle_of_its_body(service: Running, runtime: SimulatedRuntime) -> None:
    before = len(runtime.asks)
    with service.connect() as bare:
        bare.sendall(post_bytes(CHAT, chat())[:-30])
        eventually(lambda: service.service.traffic.active == 1)
    eventually(lambda: service.service.traffic.active == 0)
    assert len(runtime.asks) == before
    assert service.http.post(CHAT, json=chat()).status_code == 200


def test_too_many_large_bodies_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four of the largest may come in at once; a fifth is told to come again, and small ones get through."""
    monkeypatch.setattr("edgeq.service.http.request_body._GRACE_S", 600.0)
    intakes: list[RequestBodies] = []
    made = RequestBodies.__init__

    def make(self: RequestBodies, *args: Any, **options: Any) -> None:
        intakes.append(self)
        made(self, *args, **options)

    monkeypatch.setattr(RequestBodies, "__init__", make)
    with running(talking(SimulatedRuntime()), **SMALL, body_seconds=600) as service:
        most = body_limit(int(SMALL_MIB * 2**20))
        head = post_bytes(CHAT, b"", headers={"Content-Length": str(most)})
        body = json.dumps(chat()).encode().ljust(most)
        slow = [service.connect() for _ in range(4)]
        for bare in slow:
            bare.sendall(head)
        eventually(lambda: service.service.traffic.active == 4)
        assert post(service, body) == (200, "")  # what was only announced takes nothing
        for bare in slow:
            bare.sendall(body[:-1])
        eventually(lambda: free(intakes) == 4 * (64 << 10) + 4)
        assert post(service, body) == (429, "too_many_bodies")
        assert service.http.post(CHAT, json=chat()).status_code == 200
        with service.connect() as bare:  # which writes more than the system holds for it, and only then reads
            bare.sendall(post_bytes(CHAT, bytes(7 << 20)))
            assert answered(bare) == (413, "body_too_large")
        for bare in slow:
            bare.close()
        eventually(lambda: service.service.traffic.active == 0)
        assert post(service, body) == (200, "")


def test_a_large_body_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up long before its time is over; a small one may take all of it."""
    monkeypatch.setattr("edgeq.service.http.request_body._GRACE_S", 0.05)
    with running(talking(SimulatedRuntime()), **SMALL, body_seconds=600) as service, service.connect() as small:
        small.sendall(post_bytes(CHAT, chat())[:-1])
        eventually(lambda: service.service.traffic.active == 1)
        with service.connect() as bare:
            bare.sendall(post_bytes(CHAT, b"{", headers={"Content-Length": "1000000"}))
            assert answered(bare) == (408, "body_too_slow")
        small.sendall(post_bytes(CHAT, chat())[-1:])
        assert small.recv(4096).startswith(b"HTTP/1.1 200 OK")


def test_silent_uploads_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as may be under way: the one that is silent for longest is given up for a request that comes."""
    monkeypatch.setattr("edgeq.service.app.AT_ONCE", 3)
    with running(talking(SimulatedRuntime()), body_seconds=600) as service:
        silent = [service.connect() for _ in range(3)]
        for number, bare in enumerate(silent, start=1):
            bare.sendall(post_bytes(CHAT, chat())[:-1])
            eventually(lambda: service.service.traffic.active == number)  # noqa: B023
        assert service.http.post(CHAT, json=chat()).status_code == 200
        assert answered(silent[0]) == (408, "body_too_slow")
        for bare in silent[1:]:
            bare.sendall(post_bytes(CHAT, chat())[-1:])
            assert bare.recv(4096).startswith(b"HTTP/1.1 200 OK")
        for bare in silent:
            bare.close()


def test_nobody_takes_the_places_of_another_token() -> None:
    """Of 6 places each of two tokens has 3."""
    runtime = SimulatedRuntime()
    first, second = ({"authorization": f"Bearer {TOKEN}-{number}"} for number in (1, 2))
    tokens = [f"{TOKEN}-1", f"{TOKEN}-2"]
    with running(talking(runtime), token=tokens, sequences=4, queue=2) as service:
        held = [service.connect() for _ in range(3)]
        for bare in held:
            bare.sendall(post_bytes(CHAT, chat(HOLD), headers=first))
        eventually(lambda: len(runtime.asks) == 3)
        lines = io.StringIO()
        with logged("info", lines):
            answer = service.http.post(CHAT, json=chat(), headers=first)
            assert (answer.status_code, answer.json()["error"]["code"]) == (429, "token_quota")
            assert service.http.post(CHAT, json=chat(), headers=second).status_code == 200
            eventually(lambda: lines.getvalue().count("\n") == 2)
        assert [json.loads(line)["token"] for line in lines.getvalue().splitlines()] == [1, 2]
        assert service.http.get("/v1/models", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 401
        for bare in held:
            bare.close()


def free(intakes: list[RequestBodies]) -> int:
    """Bytes that bodies may still come to take."""
    return sum(intake._free for intake in intakes)


def post(service: Running, body: bytes) -> tuple[int, str]:
    """Status and error code of a chat request; no code of one that is answered."""
    answer = service.http.post(CHAT, content=body, headers={"content-type": "application/json"})
    return answer.status_code, answer.json().get("error", {}).get("code", "")


def test_a_request_that_took_all_its_time_to_come_in() -> None:
    with running(talking(SimulatedRuntime()), request_seconds=1e-9) as service:
        answer = service.http.post(CHAT, json=chat())
        assert (answer.status_code, answer.json()["error"]["code"]) == (408, "deadline")


# ---- the log


def test_one_line_for_each_request_with_its_id(service: Running) -> None:
    lines = io.StringIO()
    with logged("info", lines):
        answer = service.http.post(CHAT, json=chat("the secret question"), headers={"x-request-id": "mine-1"})
        service.http.get("/nowhere/" + "x" * 300)
        service.http.get("/health/live")
        eventually(lambda: lines.getvalue().count("\n") == 2)
    assert answer.headers["x-request-id"] == "mine-1"
    first, second = (json.loads(line) for line in lines.getvalue().splitlines())
    assert (first["event"], first["id"], first["path"], first["status"]) == ("request", "mine-1", CHAT, 200)
    assert (first["level"], first["answer_tokens"], first["ended"]) == ("info", 4, "stop")
    assert (second["status"], second["code"], len(second["path"])) == (404, "not_found", 200)
    assert second["id"].startswith("req_")
    assert "secret" not in lines.getvalue()
    assert "crack" not in lines.getvalue()


def test_what_nobody_foresaw_is_in_the_log_and_not_in_the_answer(service: Running, runtime: SimulatedRuntime) -> None:
    runtime.refuses("bug", ZeroDivisionError("of the inside"))  # type: ignore[arg-type]
    lines = io.StringIO()
    with logged("error", lines):
        answer = service.http.post(CHAT, json=chat("bug"))
        eventually(lambda: "of the inside" in lines.getvalue())
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert "inside" not in answer.json()["error"]["message"]
    assert "Traceback" in json.loads(lines.getvalue().splitlines()[0])["traceback"]


@pytest.mark.parametrize("given", [None, "", "a b", "a\nb", "x" * 65, "é"])
def test_an_id_that_is_no_word_is_replaced(given: str | None) -> None:
    assert request_id(given).startswith("req_")


def test_a_line_stays_one_line() -> None:
    lines = io.StringIO()
    with logged("debug", lines):
        log("event", text="two\nlines", path=Path("/a"))
    assert json.loads(lines.getvalue()) | {"time": ""} == {
        "time": "",
        "level": "info",
        "event": "event",
        "text": "two\nlines",
        "path": "/a",
    }
