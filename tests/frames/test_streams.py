"""Streams from servers in this process: RTSP and motion JPEG; the newest frame, a cable that is pulled, logins."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from films import MjpegServer, RtspServer, moving_square, served
from PIL import Image

from edgeq.errors import ImageError, InputError
from edgeq.frames.address import LOGIN, with_login, without_secrets
from edgeq.frames.looking import Looking, LookingOptions
from edgeq.frames.reader import Backoff
from edgeq.frames.registry import SourceOptions, open_source

QUICK = SourceOptions(timeout=10.0)


def address(scheme: str, server: Any, login: str = "") -> str:
    """Of a server, with a query that nobody may see."""
    return f"{scheme}://{login}127.0.0.1:{server.server_address[1]}/live?token=secret"


def size_of(image: Image.Image) -> tuple[int, int]:
    return image.size


@pytest.mark.parametrize(("handler", "scheme"), [(RtspServer, "rtsp"), (MjpegServer, "http")])
def test_frames_come(handler: type[socketserver.BaseRequestHandler], scheme: str) -> None:
    with served(handler) as server:
        source = open_source(address(scheme, server), QUICK)
        source.check()
        looking = Looking(source, size_of, LookingOptions(frames=3), pytest.fail)
        found = list(looking)
    assert [one.answer for one in found] == [(64, 48)] * 3
    assert [one.seconds for one in found] == [None] * 3
    assert all(one.latency > 0 for one in found)
    assert source.live
    assert source.name == f"{scheme}://127.0.0.1:{server.server_address[1]}/live?…"


def test_a_server_that_is_gone_and_comes_back() -> None:
    """The cable is pulled after three answers, and put back when the reader has found out."""
    said: list[str] = []
    found_out = threading.Event()

    def say(sentence: str) -> None:
        said.append(sentence)
        found_out.set()

    with served(RtspServer) as first:
        port = first.server_address[1]
        source = open_source(address("rtsp", first, "me:secret@"), QUICK)
        looking = Looking(source, size_of, LookingOptions(frames=6, reconnect_s=0.01), say)
        frames = iter(looking)
        before = [next(frames) for _ in range(3)]
    assert found_out.wait(20)
    with served(RtspServer, port):
        after = list(frames)
    assert [one.answer for one in before + after] == [(64, 48)] * 6
    numbers = [one.number for one in before + after]
    assert numbers == sorted(set(numbers))
    assert looking.counts.lost >= 1
    assert "trying again in" in said[0]
    assert said[-1].endswith("is back")
    assert "secret" not in " ".join(said)


def test_the_newest_frame_is_looked_at() -> None:
    """Who is slow finds the frame that came last: 50 have come since, and one is looked at."""
    come = threading.Event()

    def images() -> Iterator[Image.Image]:
        for number in range(10_000):
            if number == 200:
                come.set()
            yield moving_square(number)

    with served(MjpegServer, images=staticmethod(images), rate=1000) as server:
        source = open_source(address("http", server), QUICK)
        looking = Looking(source, lambda _image: come.wait(20), LookingOptions(frames=2), pytest.fail)
        first, second = list(looking)
    assert (first.answer, second.answer) == (True, True)
    assert second.number - first.number > 20
    assert second.dropped == second.number - first.number - 1
    assert second.latency < first.latency  # it was not kept waiting behind the others


def test_a_stream_that_falls_silent_is_lost() -> None:
    stop = threading.Event()

    def images() -> Iterator[Image.Image]:
        yield from map(moving_square, range(30))
        stop.wait(20)

    with served(MjpegServer, images=staticmethod(images)) as server:
        source = open_source(address("http", server), SourceOptions(timeout=0.5))
        with (
            closing(source.frames()) as frames,
            pytest.raises(ImageError, match="was lost") as caught,
        ):
            for _frame in frames:
                pass
        stop.set()
    assert caught.value.passing
    assert caught.value.what.endswith("was lost: nothing came for 0.5 s")


@pytest.mark.parametrize("given", ["", "me:mistaken@"])
def test_a_login_that_is_refused(given: str) -> None:
    with served(RtspServer, login="me:pass word") as server:
        with pytest.raises(ImageError, match="401") as caught:
            open_source(address("rtsp", server, given), QUICK).check()
        assert not caught.value.passing
        assert caught.value.__cause__ is None  # FFmpeg's error names the address
        assert "mistaken" not in str(caught.value)
        assert "PLAY" not in server.asked


def test_a_login_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOGIN, "me:pass word")
    with served(RtspServer, login="me:pass word") as server:
        open_source(address("rtsp", server), QUICK).check()
        assert "PLAY" in server.asked


def test_nobody_is_there() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ImageError, match="Connection refused") as caught:
        open_source(f"rtsp://me:secret@127.0.0.1:{port}/", QUICK).check()
    assert caught.value.passing
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["rtsp://", "rtsp:///live", "rtsp://me:secret@h:port/", "http://[::1"])
def test_an_address_without_a_host(text: str) -> None:
    with pytest.raises(InputError, match="names no host") as caught:
        open_source(text)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://me:secret@host:554/a", "rtsp://host:554/a"),
        ("rtsp://me:se@cret@host/a?x=secret#secret", "rtsp://host/a?…"),
        ("'http://secret@h/?t=secret' failed", "'http://h/?…' failed"),
        ("rtspsrc location=rtsp://me:secret@h/a user-pw=secret ! x", "rtspsrc location=rtsp://h/a user-pw=… ! x"),
        ('rtspsrc user-pw="my secret" user-id = secret ! x', "rtspsrc user-pw=… user-id=… ! x"),
        ("a?b.mp4", "a?b.mp4"),
    ],
)
def test_secrets_are_not_shown(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_a_login_is_put_in_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_login("rtsp://h/a") == "rtsp://h/a"
    monkeypatch.setenv(LOGIN, "me:a@b/:c")
    assert with_login("rtsp://h:5/a?b") == "rtsp://me:a%40b%2F%3Ac@h:5/a?b"
    assert with_login("rtsp://you:d@h/a") == "rtsp://you:d@h/a"
    monkeypatch.setenv(LOGIN, "secret")
    with pytest.raises(InputError, match=LOGIN) as caught:
        with_login("rtsp://h/a")
    assert "secret" not in str(caught.value)


def test_waits_grow_and_are_bounded() -> None:
    backoff = Backoff(1.0, 8.0)
    waits = [backoff.next() for _ in range(6)]
    for wait, middle in zip(waits, (1, 2, 4, 8, 8, 8), strict=True):
        assert 0.75 * middle <= wait <= 1.25 * middle
    backoff.reset()
    assert backoff.next() <= 1.25
    assert Backoff(1.0, 0.1).next() <= 0.125  # the bound holds for the first as well
