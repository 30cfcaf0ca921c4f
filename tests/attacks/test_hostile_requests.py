"""Requests made to exhaust the service, over raw sockets: each is refused, and health is told meanwhile."""

from __future__ import annotations

import json
import resource
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest
from running import ANSWER, Running, SimulatedRuntime, chat, eventually, post_bytes, question, running, talking

from benchmarks.attack_inputs import ENDLESS, IMAGES, JSON_BODIES, chat_about, huge_png, json_request, request_head
from edgeq.errors import ImageError
from edgeq.model.images.decode import decode_image
from edgeq.service.http.connections import Connections, descriptor_room
from edgeq.service.http.errors import RequestError
from edgeq.service.http.json_bounds import MOST_DEPTH, MOST_ITEMS, JsonBounds

CHAT = "/v1/chat/completions"
MOST_SENT = 3 << 20
"""Bytes that are sent of what goes on for ever: what holds 64 KiB takes no more than the system holds beside."""


@pytest.fixture(scope="module")
def runtime() -> SimulatedRuntime:
    return SimulatedRuntime()


@pytest.fixture(scope="module")
def service(runtime: SimulatedRuntime) -> Iterator[Running]:
    with running(talking(runtime), memory_gb=3) as service:
        yield service


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def all_of(bare: socket.socket) -> bytes:
    return b"".join(iter(lambda: bare.recv(65536), b""))


def one_of(bare: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of one answer, which may come in pieces; the connection may stay."""
    answer = bytearray()
    while b"\r\n\r\n" not in answer and (piece := bare.recv(65536)):
        answer += piece
    head, _, body = bytes(answer).partition(b"\r\n\r\n")
    (length,) = [
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
    ]
    while len(body) < length and (piece := bare.recv(65536)):
        body += piece
    return head, body


def sent(service: Running, request: bytes) -> tuple[int, str]:
    """Status and error code of the answer to a request that is written while the answer is read."""
    with service.connect() as bare:
        with suppress(ConnectionError):  # it was refused before all of it was there
            bare.sendall(request)
        head, body = one_of(bare)
        return status_of(head), json.loads(body)["error"]["code"]


# ---- bytes


@pytest.mark.parametrize("name", ENDLESS)
def test_what_goes_on_for_ever_is_ended(service: Running, name: str) -> None:
    """Before anything is made of it: no more is taken than a header may have, and what the system holds."""
    endless = ENDLESS[name]
    with service.connect() as bare:
        try:
            bare.sendall(endless.begun)
            for _ in range(MOST_SENT // len(endless.piece)):
                bare.sendall(endless.piece)
            bare.shutdown(socket.SHUT_WR)
            answer = bare.recv(65536)  # nothing where it might have been a whole request with more of it
            assert not answer or status_of(answer) in (400, 413, 431)
        except ConnectionError:  # it was cut off while it was still writing
            pass
    assert service.http.get("/health/live").status_code == 200
    eventually(lambda: service.service.traffic.active == 0)


def test_trailers_become_no_headers(service: Running) -> None:
    """A token that comes behind the body is none."""
    with running(talking(SimulatedRuntime()), token="0123456789abcdef") as locked, locked.connect() as bare:
        body = b"2\r\n{}\r\n0\r\nAuthorization: Bearer 0123456789abcdef\r\n\r\n"
        bare.sendall(request_head(CHAT, Transfer_Encoding="chunked", Connection="close") + body)
        assert status_of(all_of(bare)) == 401
    assert service.http.get("/health/live").status_code == 200


@pytest.mark.parametrize(
    ("coding", "status"),
    [
        *(("gzip, chunked", 501), ("identity, chunked", 501), ("deflate , Chunked", 501), ("x, y, chunked", 501)),
        *(("gzip", 400), ("chunked, gzip", 400), ("chunked, chunked", 400), ("identity", 400)),
    ],
)
def test_codings_that_are_not_read(service: Running, coding: str, status: int) -> None:
    with service.connect() as bare:
        bare.sendall(request_head(CHAT, Transfer_Encoding=coding) + b"0\r\n\r\n")
        assert status_of(all_of(bare)) == status


def test_a_body_in_chunks_of_any_length_is_read(service: Running) -> None:
    """With extensions and a trailer, which say nothing."""
    body = json.dumps(chat()).encode()
    for length in (64, 1000, len(body)):
        pieces = [body[at : at + length] for at in range(0, len(body), length)]
        chunks = b"".join(b"%x;note=1\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        with service.connect() as bare:
            head = request_head(CHAT, Transfer_Encoding="chunked", Connection="close")
            bare.sendall(head + chunks + b"0\r\nX-Note: 1\r\n\r\n")
            assert status_of(all_of(bare)) == 200


# ---- JSON


@pytest.mark.parametrize("name", JSON_BODIES)
def test_a_body_that_costs_more_than_it_weighs(service: Running, runtime: SimulatedRuntime, name: str) -> None:
    before = len(runtime.asks)
    body = JSON_BODIES[name]()
    status, code = sent(service, json_request(body))
    assert (status, code) in ((400, "not_json"), (400, "bad_request"), (413, "body_too_large"))
    assert len(runtime.asks) == before
    assert service.http.get("/health/live").status_code == 200


def test_the_bounds_of_json() -> None:
    """As much as is allowed goes through, one more does not; the same in any pieces."""
    for body, status in (
        (b"[" + b"0," * MOST_ITEMS + b"0]", 0),
        (b"[" + b"0," * (MOST_ITEMS + 1) + b"0]", 413),
        (b"[" * MOST_DEPTH + b"]" * MOST_DEPTH, 0),
        (b"[" * (MOST_DEPTH + 1) + b"]" * (MOST_DEPTH + 1), 400),
        (b'["' + b"[{," * 1000 + b'"]', 0),
        (b'["' + b"\\\\" * 999 + b'","' + b'\\"[' * 999 + b'"]', 0),
        (b'{"image": "DATA:' + b"A" * 1_000_000 + b'"}', 0),
        (b'{"image": "dota:' + b"A" * 1_000_000 + b'"}', 413),
    ):
        for length in (1000, 4097, len(body)):
            assert bounded(body, length) == status, (body[:20], length)


def bounded(body: bytes, length: int) -> int:
    """The status that a body is refused with, in pieces of such a length; 0 for none."""
    bounds = JsonBounds()
    try:
        for at in range(0, len(body), length):
            bounds.feed(body[at : at + length])
    except RequestError as error:
        return error.status
    return 0


# ---- images


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_that_costs_more_than_it_weighs(service: Running, runtime: SimulatedRuntime, name: str) -> None:
    media, make = IMAGES[name]
    before = len(runtime.asks)
    status, code = sent(service, json_request(chat_about(make(), media)))
    assert (status, code) in ((413, "image_too_large"), (413, "too_much_memory"))
    assert len(runtime.asks) == before


@pytest.mark.parametrize("name", ["1,000 scans", "a million segments", "a million chunks", "200 frames"])
def test_the_workshop_refuses_what_was_made_to_be_slow(name: str) -> None:
    _, make = IMAGES[name]
    with pytest.raises(ImageError, match="has more than"):
        decode_image(make(), "it")


def test_large_images_that_people_have_are_taken(service: Running) -> None:
    """6 million pixels with transparency, a panorama, a sheet of 16 bits."""
    for image in (huge_png(3000, 2000, colour=6), huge_png(10_000, 300, colour=2), huge_png(1500, 1000, bits=16)):
        answer = service.http.post(CHAT, content=chat_about(image), headers={"content-type": "application/json"})
        assert answer.status_code == 200, answer.text


# ---- connections


def test_clients_that_close_their_half_get_their_answers(service: Running) -> None:
    with service.connect() as bare:
        bare.sendall(post_bytes(CHAT, chat()))
        bare.shutdown(socket.SHUT_WR)
        assert ANSWER.encode() in all_of(bare)
    with service.connect() as bare:  # three at once, the last in pieces
        bare.sendall(post_bytes(CHAT, chat()) * 2 + post_bytes(CHAT, chat(stream=True)))
        bare.shutdown(socket.SHUT_WR)
        found = all_of(bare)
    assert found.count(ANSWER.encode()) == 2
    assert found.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    with service.connect() as bare:  # a request that will never be whole
        bare.sendall(post_bytes(CHAT, chat())[:-1])
        bare.shutdown(socket.SHUT_WR)
        assert all_of(bare) == b""


@pytest.mark.parametrize("begun", [b"", b"GET /health/live HTTP/1.1\r\nHost: local"])
def test_more_idle_connections_than_descriptors_keep_nobody_out(begun: bytes) -> None:
    """The one that is idle for longest gives way; the limit of descriptors stands for one of 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with running(talking(SimulatedRuntime()), connections=64) as service:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        try:
            idle = [service.connect() for _ in range(300)]
            for bare in idle:
                try:
                    bare.sendall(begun)
                except ConnectionError:
                    continue
            assert service.http.get("/health/live").status_code == 200
            answer = service.openai().chat.completions.create(model="inspector", messages=question())
            assert answer.choices[0].message.content == ANSWER
            assert len(service.service.connections) <= 64
        finally:
            for bare in idle:
                bare.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        eventually(lambda: len(service.service.connections) <= 2)


class Line:
    """A connection: only whether it had to give way."""

    ended = False

    def give_way(self) -> None:
        self.ended = True


def test_one_address_cannot_have_all_connections() -> None:
    """Its own oldest gives way; those that are busy do not, and another address comes in."""
    connections = Connections(4, 2, proxies=["10.0.0.9"])
    lines = [Line() for _ in range(3)]
    for line in lines:
        connections.come(line, "192.0.2.1")
    assert [line.ended for line in lines] == [True, False, False]
    for line in lines[1:]:
        connections.busy(line)
    with pytest.raises(RequestError, match="from this address"):
        connections.come(Line(), "192.0.2.1")
    for address in ("10.0.0.9", "127.0.0.1"):
        connections.come(Line(), address)
    assert len(connections) == 4
    connections.come(Line(), "10.0.0.9")  # the other idle ones, of whichever address, give way
    assert len(connections) == 4


def test_where_nobody_is_idle_there_is_no_room() -> None:
    connections = Connections(2, 2)
    lines = [Line(), Line()]
    for line in lines:
        connections.come(line, "")
        connections.busy(line)
    with pytest.raises(RequestError) as caught:
        connections.come(Line(), "")
    assert (caught.value.status, caught.value.code) == (503, "too_many_connections")
    connections.idle(lines[0])
    connections.come(Line(), "")
    assert lines[0].ended
    connections.gone(lines[0])  # once more
    assert len(connections) == 2


@pytest.mark.parametrize(("soft", "room"), [(1024, 512), (4096, 512), (512, 240), (256, 48), (64, 16)])
def test_connections_stay_below_the_limit_of_descriptors(soft: int, room: int) -> None:
    """Three quarters of what is left beside 192."""
    assert descriptor_room(512, soft) == room
