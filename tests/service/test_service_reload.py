"""SIGHUP: tokens are read again while requests go on."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence

import pytest
from running import (
    ANSWER,
    HOLD,
    WAIT_S,
    SimulatedRuntime,
    chat,
    eventually,
    post_bytes,
    received,
    running,
    said,
    talking,
)

from edgeq.errors import InputError
from edgeq.service.http.access import Access
from edgeq.service.server import _signals

OLD, NEW = "o" * 16, "n" * 16
CHAT = "/v1/chat/completions"


def test_a_new_token_is_taken_and_the_old_one_is_not() -> None:
    with running(talking(SimulatedRuntime()), token=OLD) as service:
        assert service.http.get("/v1/models").status_code == 200
        service.service.access.change([NEW])
        assert service.http.get("/v1/models").status_code == 401
        answer = service.http.get("/v1/models", headers={"Authorization": f"Bearer {NEW}"})
        assert answer.status_code == 200


@pytest.mark.parametrize("tokens", [[], [NEW, OLD]])
def test_more_or_fewer_tokens_are_refused(tokens: Sequence[str]) -> None:
    with pytest.raises(InputError, match=f"there are {len(tokens)} tokens now, and there were 1"):
        Access([OLD]).change(tokens)


def test_what_is_under_way_goes_on_and_a_bad_file_changes_nothing() -> None:
    runtime, read = SimulatedRuntime(), threading.Event()

    def reload() -> None:
        read.set()
        raise InputError("the token file is gone")

    with running(talking(runtime), token=OLD, reload=reload) as service, service.connect() as waiting:
        waiting.sendall(post_bytes(CHAT, chat(HOLD), headers={"Authorization": f"Bearer {OLD}"}))
        eventually(lambda: len(runtime.asks) == 1)
        service.server.reload()
        assert read.wait(WAIT_S)
        assert service.http.get("/v1/models").status_code == 200
        runtime.end("r1", said(ANSWER))
        assert ANSWER.encode() in received(waiting, ANSWER.encode())
    assert runtime.closed == [True]


def test_each_signal_does_what_it_should() -> None:
    """Without a handler SIGHUP ends the service, and systemd, which takes that for its wish, would not start it."""
    done = list[str]()
    with _signals(lambda: done.append("stop"), lambda: done.append("reload")):
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
    assert done == ["reload", "stop"]
