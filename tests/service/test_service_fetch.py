"""Images from other hosts: only from those that were named, and never from inside the network."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from running import (
    NAME,
    Running,
    SimulatedRuntime,
    chat,
    image_part,
    opened,
    picture,
    question,
    running,
    talking,
    text_part,
)

from edgeq.service.http.errors import RequestError
from edgeq.service.routes.fetch import Fetcher, is_public, resolve

HOST = "camera.example"
MOST = 1000


@contextmanager
def answering(*answers: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """A host that gives these answers, one for each connection; its port, and the requests that it saw."""
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    seen.append(connection.recv(4096))
                    connection.sendall(answer)
                    if not answer.endswith(b"\0"):  # otherwise it says no more, and keeps the line
                        continue
                    connection.settimeout(20)
                    connection.recv(1)

        def serve_until_closed() -> None:
            with suppress(OSError):  # nobody has asked for the rest
                serve()

        thread = threading.Thread(target=serve_until_closed, daemon=True)
        thread.start()
        yield listener.getsockname()[1], seen


def ok(body: bytes, *headers: bytes) -> bytes:
    lines = b"".join(line + b"\r\n" for line in (b"Content-Type: image/png", *headers))
    return b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n" + body


def moved(to: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode()


async def here(_host: str, _port: int) -> tuple[str, ...]:
    """Every name is this machine's."""
    return ("127.0.0.1",)


def fetcher(seconds: float = 20, allowed: Callable[[str], bool] = lambda _address: True) -> Fetcher:
    return Fetcher([HOST], MOST, seconds, resolve=here, allowed=allowed)


def fetch(url: str, **options: object) -> bytes:
    return asyncio.run(fetcher(**options).fetch(url))  # type: ignore[arg-type]


def refused(url: str, **options: object) -> RequestError:
    with pytest.raises(RequestError) as caught:
        fetch(url, **options)
    return caught.value


def test_an_image() -> None:
    with answering(ok(b"pixels", b"Content-Length: 6"), ok(b"2\r\nab\r\n0\r\n\r\n", b"Transfer-Encoding: chunked")) as (
        port,
        seen,
    ):
        assert fetch(f"http://{HOST}:{port}/a%20b.png?x=1") == b"pixels"
        assert fetch(f"http://{HOST}:{port}") == b"ab"
    assert seen[0].startswith(b"GET /a%20b.png?x=1 HTTP/1.1\r\n")
    assert f"Host: {HOST}:{port}".encode() in seen[0]
    assert seen[1].startswith(b"GET / HTTP/1.1\r\n")


def test_redirects_stay_on_the_host() -> None:
    with answering(moved("/b.png"), ok(b"b", b"Content-Length: 1")) as (port, seen):
        assert fetch(f"http://{HOST}:{port}/a.png") == b"b"
    assert seen[1].startswith(b"GET /b.png ")
    for there in ("http://127.0.0.1/", "http://other.example/a", "//other.example/a", "file:///etc/passwd"):
        with answering(moved(there)) as (port, _):
            assert refused(f"http://{HOST}:{port}/").status in (400, 422)
    for there in (
        "http://[",
        "http://[::1",
        f"http://{HOST}:port/",
        f"http://{HOST}:99999/",
        "/a b",
        "\x7f",
        "//",
        "/\u00ff",
    ):
        with answering(moved(there), b"") as (port, _):
            assert refused(f"http://{HOST}:{port}/").status in (400, 422), there
    with answering(*[moved("/again")] * 4) as (port, _):
        assert "for ever" in refused(f"http://{HOST}:{port}/").what


@pytest.mark.parametrize("head", [b"Content-Length: 1001", b"X: 1"])
def test_a_body_that_is_too_long(head: bytes) -> None:
    with answering(ok(b"x" * 1001, head)) as (port, _):
        assert refused(f"http://{HOST}:{port}/").status == 413


@pytest.mark.parametrize(
    "answer",
    [b"", b"\xff\xfe", b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", ok(b"abc", b"Content-Length: 9"), moved("")],
)
def test_a_host_that_does_not_answer_as_it_should(answer: bytes) -> None:
    with answering(answer) as (port, _):
        assert (refused(f"http://{HOST}:{port}/").code) == "image_not_fetched"


def test_a_host_that_is_slow() -> None:
    with answering(b"HTTP/1.1 200 OK\r\nX: \0") as (port, _):
        assert "within 0.05 s" in refused(f"http://{HOST}:{port}/", seconds=0.05).what


def test_nobody_is_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert refused(f"http://{HOST}:{port}/").status == 422


def test_a_name_that_leads_inside_is_not_followed() -> None:
    with answering() as (port, seen):
        assert "no public host" in refused(f"http://{HOST}:{port}/", allowed=is_public).what
    assert seen == []


@pytest.mark.parametrize(
    "url",
    [
        *("http://other.example/a", "http://camera.example.evil.example/", "http://evil.example/?camera.example"),
        *("http://camera.example@evil.example/", "http://127.0.0.1/", "http://[::1]/", "https://", "http://[/"),
        *("http://camera.example:99999/", "http://user@camera.example/", "http://camera.example/\r\nX: 1"),
    ],
)
def test_an_address_that_is_refused_before_anything_is_sent(url: str) -> None:
    assert refused(url).status == 400


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *(("8.8.8.8", True), ("2001:4860:4860::8888", True), ("::ffff:8.8.8.8", True)),
        *((one, False) for one in ("127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "0.0.0.0")),
        *((one, False) for one in ("100.64.0.1", "224.0.0.1", "::1", "fe80::1%eth0", "fd00::1", "::ffff:127.0.0.1")),
        *((one, False) for one in ("64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::a00:1", "2002:7f00:1::1")),
        *((one, False) for one in ("::127.0.0.1", "::8.8.8.8", "::ffff:0:127.0.0.1", "2001:0:4136:e378::1")),
        *((one, False) for one in ("2a00:1450::5efe:7f00:1", "2a00:1450::200:5efe:7f00:1", "fec0::1", "::")),
        *((one, False) for one in ("ff02::1", "255.255.255.255", "198.18.0.1", "no address", "")),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize("port", [22, 8080, 6379])
def test_other_ports_are_not_asked(port: int) -> None:
    async def public(_host: str, _port: int) -> tuple[str, ...]:
        return ("8.8.8.8",)

    with pytest.raises(RequestError, match="ports of HTTP and HTTPS") as caught:
        asyncio.run(Fetcher([HOST], MOST, 20, resolve=public).fetch(f"http://{HOST}:{port}/"))
    assert caught.value.status == 422


def test_the_systems_own_resolver() -> None:
    assert "127.0.0.1" in asyncio.run(resolve("127.0.0.1", 80))


def test_through_the_service() -> None:
    body = picture()
    runtime = SimulatedRuntime()
    with (
        answering(ok(body, f"Content-Length: {len(body)}".encode())) as (port, _),
        running(talking(runtime), fetcher=fetcher()) as service,
    ):
        url = f"http://{HOST}:{port}/a.png"
        service.openai().chat.completions.create(model=NAME, messages=question(image=url))
        (image,) = runtime.asks[-1].images
        assert opened(image).size == (8, 8)
        refused = service.http.post("/v1/chat/completions", json=chat(image="http://other.example/"))
        assert refused.json()["error"]["code"] == "image_host_not_allowed"


def asked(service: Running, *urls: str) -> Any:
    """The fault of a request about the images behind these addresses."""
    content = [*(image_part(url) for url in urls), text_part("what?")]
    body = {"model": NAME, "messages": [{"role": "user", "content": content}]}
    return service.http.post("/v1/chat/completions", json=body).json().get("error")


def test_several_images_are_fetched_one_after_another() -> None:
    body = picture()
    told = ok(body, f"Content-Length: {len(body)}".encode())
    runtime = SimulatedRuntime()
    with running(talking(runtime), fetcher=fetcher()) as service:
        with answering(told, told) as (port, seen):
            assert asked(service, f"http://{HOST}:{port}/a", f"http://{HOST}:{port}/b") is None
            assert [request.split()[1] for request in seen] == [b"/a", b"/b"]
        assert len(runtime.asks[-1].images) == 2
        with answering(told, b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n") as (port, _):
            error = asked(service, f"http://{HOST}:{port}/a", f"http://{HOST}:{port}/b")
            assert (error["code"], error["param"]) == ("image_not_fetched", "messages.0.content.1")


def test_no_image_is_fetched_of_a_request_with_too_many() -> None:
    with running(talking(SimulatedRuntime()), fetcher=fetcher(), max_images=2) as service:
        with answering() as (port, seen):
            assert asked(service, *[f"http://{HOST}:{port}/{name}" for name in "abc"])["code"] == "too_many_images"
        assert seen == []


class WatchedFetcher(Fetcher):
    """Writes down how long each image may take."""

    def __init__(self, hosts: list[str], most_bytes: int, seconds: float) -> None:
        super().__init__(hosts, most_bytes, seconds, resolve=here, allowed=lambda _address: True)
        self.given: list[float] = []

    async def fetch(self, url: str, seconds: float | None = None) -> bytes:
        assert seconds is not None
        self.given.append(seconds)
        before = anyio.current_time()
        body = await super().fetch(url, seconds)
        while anyio.current_time() == before:  # the loop's clock counts milliseconds
            await anyio.lowlevel.checkpoint()
        return body


def test_all_images_together_have_the_time_of_one() -> None:
    body, watched = picture(), WatchedFetcher([HOST], MOST, 20)
    told = ok(body, f"Content-Length: {len(body)}".encode())
    with answering(told, told) as (port, _), running(talking(SimulatedRuntime()), fetcher=watched) as service:
        assert asked(service, f"http://{HOST}:{port}/a", f"http://{HOST}:{port}/b") is None
    first, second = watched.given
    assert 20 >= first > second


def test_the_files_of_all_images_together_are_bounded() -> None:
    body = picture(side=64)
    told = ok(body, f"Content-Length: {len(body)}".encode())
    most = 1.5 * len(body) / 2**20
    with (
        answering(told, told) as (port, _),
        running(talking(SimulatedRuntime()), fetcher=fetcher(), image_mib=most, images_mib=most) as service,
    ):
        error = asked(service, f"http://{HOST}:{port}/a", f"http://{HOST}:{port}/b")
    assert (error["code"], error["param"]) == ("images_too_large", "messages.0.content.1")
