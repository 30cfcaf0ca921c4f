"""A hub that is not there is reported at once, whatever verb asks for it: its own client tries for half a minute."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import huggingface_hub
import pytest
from command import Edgeq, assert_refused

from edgeq.model.checkpoint.reachable import why_unreachable


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def nobody() -> str:
    """An address that refuses."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that drops who asks for a connection: its queue is full."""
    with ExitStack() as held:
        listener = held.enter_context(closing(socket.create_server(("127.0.0.1", 0), backlog=0)))
        for _ in range(3):
            waiting = held.enter_context(closing(socket.socket()))
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("verb", ["plan", "inspect", "prepare"])
def test_a_name_of_the_hub_is_refused_while_it_is_offline(
    edgeq: Edgeq, verb: str, nobody: str, tiny_pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the client, which would go on asking, is not called to fetch anything."""
    monkeypatch.setenv("HF_ENDPOINT", nobody)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: pytest.fail("it was asked"))
    more = ("--images", tiny_pictures, "-o", tmp_path / "out") if verb == "prepare" else ()
    done = edgeq(verb, "nobody/nothing", *more)
    assert_refused(done, "nobody/nothing", "127.0.0.1", "Connection refused", "offline")
    assert not (tmp_path / "out").exists()


def test_why_it_is_not_reached(nobody: str, silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", nobody)
    assert "Connection refused" in why_unreachable()
    monkeypatch.setenv("HF_ENDPOINT", silent)
    assert why_unreachable(0.2) in ("127.0.0.1 does not answer within 0.2 s", "127.0.0.1: timed out")
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid")
    assert "hub.invalid" in why_unreachable()


def test_what_stands_before_it_is_asked(nobody: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that is there is enough: it alone knows the hub."""
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    with closing(socket.create_server(("127.0.0.1", 0))) as proxy:
        monkeypatch.setenv("http_proxy", f"127.0.0.1:{proxy.getsockname()[1]}")
        assert why_unreachable() == ""
    monkeypatch.setenv("http_proxy", nobody)
    assert "Connection refused" in why_unreachable()
