"""The batcher and the cache by themselves, with an encoder that is a line."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeq.runtime.retrieval.batching import Batcher
from edgeq.runtime.retrieval.vector_cache import VectorCache
from edgeq.runtime.scheduler.errors import BusyError, ClosedError

WAIT_S = 20.0
LONG_S = 3600.0
"""A window that only a full batch, or the end, cuts short."""


class Doubling:
    """Gives each row twice itself; a row of zeros makes it fail. It can be held."""

    def __init__(self) -> None:
        self.runs: list[int] = []
        self.go = threading.Event()
        self.go.set()
        self.entered = threading.Event()

    def __call__(self, rows: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        self.runs.append(len(rows))
        self.entered.set()
        assert self.go.wait(WAIT_S)
        if any(not row.any() for row in rows):
            raise ValueError("a row of zeros")
        return np.stack(rows).astype(np.float32) * 2


def rows(*values: float) -> list[NDArray[np.float32]]:
    return [np.full(3, value, np.float32) for value in values]


def hold(batcher: Batcher, run: Doubling) -> Any:
    """A request that is in the encoder, which stands still."""
    run.go.clear()
    future = batcher.submit(rows(1))
    assert run.entered.wait(WAIT_S)
    return future


def test_a_batch_waits_until_it_is_full() -> None:
    run = Doubling()
    batcher = Batcher(run, "test", queue=9, most=4, window=LONG_S)
    futures = [batcher.submit(rows(value)) for value in (1, 2)]
    futures.append(batcher.submit(rows(3, 4), lambda made: made[::-1]))
    assert [future.result(WAIT_S)[0, 0] for future in futures] == [2, 4, 8]
    assert run.runs == [4]
    batcher.close()
    assert (batcher.figures.batches, batcher.figures.rows, batcher.figures.ended) == (1, 4, 3)
    assert not batcher.alive


def test_waiting_is_counted_until_the_encoder_takes_a_request() -> None:
    now = [10.0]
    run = Doubling()
    batcher = Batcher(run, "test", queue=9, clock=lambda: now[0])
    first = hold(batcher, run)
    futures = [batcher.submit(rows(2)), batcher.submit(rows(3))]
    now[0] = 13.5
    assert batcher.figures.waited_s == 0
    run.go.set()
    assert [len(future.result(WAIT_S)) for future in (first, *futures)] == [1, 1, 1]
    batcher.close()
    assert batcher.figures.waited_s == 7.0, "two requests, three and a half seconds each"


def test_a_request_is_not_divided() -> None:
    run = Doubling()
    batcher = Batcher(run, "test", queue=9, most=4)
    first = hold(batcher, run)
    futures = [batcher.submit(rows(*range(1, count + 1))) for count in (3, 2, 7, 1)]
    run.go.set()
    assert [len(future.result(WAIT_S)) for future in (first, *futures)] == [1, 3, 2, 7, 1]
    batcher.close()
    assert run.runs == [1, 3, 2, 7, 1]


def test_one_request_s_fault_is_nobody_else_s() -> None:
    run = Doubling()
    batcher = Batcher(run, "test", queue=9)
    hold(batcher, run)
    good, bad, worse = batcher.submit(rows(1)), batcher.submit(rows(0)), batcher.submit(rows(5), lambda made: made[9])
    run.go.set()
    assert good.result(WAIT_S)[0, 0] == 2
    with pytest.raises(ValueError, match="zeros"):
        bad.result(WAIT_S)
    with pytest.raises(IndexError):
        worse.result(WAIT_S)
    batcher.close()
    assert run.runs == [1, 3, 1, 1, 1]


def test_a_full_queue_and_requests_that_were_given_up() -> None:
    run = Doubling()
    batcher = Batcher(run, "test", queue=2)
    first = hold(batcher, run)
    waiting = [batcher.submit(rows(value)) for value in (2, 3)]
    with pytest.raises(BusyError) as caught:
        batcher.submit(rows(4))
    assert caught.value.retry_after_s >= 1
    assert waiting[0].cancel()
    last = batcher.submit(rows(5))
    run.go.set()
    assert [future.result(WAIT_S)[0, 0] for future in (first, waiting[1], last)] == [2, 6, 10]
    with pytest.raises(CancelledError):
        waiting[0].result()
    batcher.close()
    assert sum(run.runs) == 3


def test_closing_answers_what_waits() -> None:
    run = Doubling()
    batcher = Batcher(run, "test", queue=9, most=4, window=LONG_S)
    future = batcher.submit(rows(1))
    batcher.close()
    assert future.result(0)[0, 0] == 2
    with pytest.raises(ClosedError):
        batcher.submit(rows(1))
    batcher.close()


def test_closing_in_a_hurry_answers_only_what_runs() -> None:
    run = Doubling()
    batcher = Batcher(run, "test", queue=9)
    first = hold(batcher, run)
    future, given_up = batcher.submit(rows(2)), batcher.submit(rows(3))
    given_up.cancel()
    closing = threading.Thread(target=batcher.close, args=(False,))
    closing.start()
    with pytest.raises(ClosedError):
        future.result(WAIT_S)
    run.go.set()
    closing.join(WAIT_S)
    assert first.result(0)[0, 0] == 2
    assert run.runs == [1]


def test_the_cache_lets_go_of_what_was_not_asked_for_the_longest() -> None:
    vector = np.arange(8, dtype=np.float32)
    one = VectorCache(10_000)
    one.keep({b"a": vector})
    size = one.figures.bytes
    assert size > vector.nbytes
    cache = VectorCache(2 * size)
    cache.keep({b"a": vector, b"b": vector + 1})
    np.testing.assert_array_equal(cache.known([b"a"])[b"a"], vector)
    cache.keep({b"c": vector + 2, b"a": vector + 3})
    assert set(cache.known([b"a", b"b", b"c"])) == {b"a", b"c"}
    np.testing.assert_array_equal(cache.known([b"a"])[b"a"], vector)
    found = cache.figures
    assert (found.entries, found.bytes, found.hits, found.misses, found.evicted) == (2, 2 * size, 4, 1, 1)
    nothing = VectorCache(0)
    nothing.keep({b"a": vector})
    assert nothing.known([b"a"]) == {}
