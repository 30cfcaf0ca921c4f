"""Work in a child that asks for more than it may: it is killed, refused in words, and nothing is left of it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeq.confined.limits import Limits
from edgeq.confined.pool import Pool
from edgeq.confined.worker import Worker, run_confined
from edgeq.errors import EdgeqError, InputError, LimitError, ModelError

SMALL = Limits(seconds=20, memory_bytes=64 << 20, answer_bytes=1 << 20)
BRIEF = Limits(seconds=0.2, memory_bytes=64 << 20)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """One child, replaced as tests kill it."""
    pool = Pool(1, ["costly_work"])
    yield pool
    pool.close()


def asked(pool: Pool, function: str, limits: Limits = SMALL, data: bytes = b"", **plain: Any) -> Any:
    return pool.run(f"costly_work:{function}", plain, data, limits=limits, what="the input")


@pytest.mark.parametrize("length", [0, 10, 300_000, 400_000, 9_000_000, 200_000])
def test_plain_data_goes_in_and_out(pool: Pool, length: int) -> None:
    data = bytes(range(256)) * (length // 256) + bytes(range(length % 256))
    limits = Limits(seconds=20, memory_bytes=64 << 20, answer_bytes=length)
    found = asked(pool, "echo", limits, data=data, number=3, text="é")
    assert found.plain == {"number": 3, "text": "é"}
    assert bytes(found.data) == data


@pytest.mark.parametrize(
    ("function", "limits", "plain", "words"),
    [
        ("deaf", BRIEF, {}, r"the input took more than 0\.2 s: refused"),
        ("compute", Limits(60, 64 << 20, cpu_seconds=0.1), {}, r"the input took more than 0\.1 s of a processor: refu"),
        ("fill", SMALL, {"bytes": 1 << 40}, "the input took more than 67 MB: refused"),
        ("large", SMALL, {"bytes": 1 << 21}, "more than 1,048,576 bytes: refused"),
        ("crash", SMALL, {}, r"the input ended the process that worked on it \(SIGSEGV\)"),
    ],
)
def test_too_much_is_refused_and_the_next_call_is_answered(
    pool: Pool, function: str, limits: Limits, plain: dict[str, Any], words: str
) -> None:
    with pytest.raises(LimitError, match=words):
        asked(pool, function, limits, **plain)
    assert asked(pool, "echo", number=1).plain == {"number": 1}


def test_errors_keep_their_kind_and_their_words(pool: Pool) -> None:
    with pytest.raises(ModelError) as caught:
        asked(pool, "refuse")
    error = caught.value
    assert (error.what, error.expected, error.causes, error.next_step) == (
        "this is no model",
        "one",
        ("a reason",),
        "another",
    )
    with pytest.raises(InputError, match="the input cannot be used: ZeroDivisionError: by zero"):
        asked(pool, "foreign")
    with pytest.raises(InputError, match="the input is nested too deeply"):
        asked(pool, "nest")


def test_memory_is_counted_from_what_the_child_has(pool: Pool) -> None:
    """The same limit holds for each call, however many came before."""
    for _ in range(5):
        assert asked(pool, "fill", bytes=48 << 20).plain == {"length": 48 << 20}


def test_no_file_is_written_and_the_group_is_its_own(tmp_path: Path) -> None:
    path = tmp_path / "file"
    found = run_confined("costly_work:identity", {"path": str(path)}, limits=SMALL, what="it").plain
    assert found["pid"] == found["group"] != os.getpgid(0)
    assert not path.exists() or path.read_bytes() == b""
    with pytest.raises(ProcessLookupError):
        os.kill(found["pid"], 0)


def test_a_child_is_replaced_after_its_calls() -> None:
    pool = Pool(1, calls=2)
    try:
        pids = [asked(pool, "identity", path="/").plain["pid"] for _ in range(4)]
    finally:
        pool.close()
    assert pids[0] == pids[1] != pids[2] == pids[3]


def test_a_pool_that_is_closed_lets_nobody_wait() -> None:
    pool, raised = Pool(1, ["costly_work"]), []
    assert asked(pool, "echo").plain == {}

    def ask() -> None:
        try:
            asked(pool, "deaf", Limits(600, 64 << 20))
        except EdgeqError as error:
            raised.append(error.what)

    threads = [threading.Thread(target=ask) for _ in range(2)]  # one works, one waits for the child
    for thread in threads:
        thread.start()
    pool.close()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert all("the process ends" in what for what in raised)
    assert len(raised) == 2
    with pytest.raises(LimitError):
        asked(pool, "echo")


def test_a_child_that_cannot_start_is_an_error() -> None:
    with pytest.raises(LimitError, match="does not start"):
        Worker(["there_is_no_such_module"])
    pool = Pool(1, ["there_is_no_such_module"])
    try:
        with pytest.raises(LimitError, match="does not start"):
            asked(pool, "echo")
    finally:
        pool.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_child_ends_with_its_parent(number: signal.Signals) -> None:
    code = """
import sys
from edgeq.confined.limits import Limits
from edgeq.confined.worker import Worker
worker = Worker(["costly_work"])
print(worker._process.pid, flush=True)
worker.call("costly_work:deaf", {}, b"", Limits(600, 1 << 26), "it")
"""
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": paths}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        ended = os.pidfd_open(child)
        parent.send_signal(number)
        parent.wait(20)
        found, _, _ = select.select([ended], [], [], 20)  # readable once the process has ended
        os.close(ended)
        assert found
