"""A batcher on an accelerator: memory that suffices for fewer rows, and an accelerator that is lost."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from cuda_errors import LOST, NO_MEMORY
from numpy.typing import NDArray

from edgeq.errors import DeviceLostError, EdgeqError, EngineError, OutOfMemoryError
from edgeq.runtime.retrieval.batching import Batcher

WAIT_S = 20.0
LONG_S = 3600.0


class Encoder:
    """Gives rows back; raises what it is told to once there are more than so many, or a row is negative."""

    def __init__(self, error: BaseException, most: int = 1) -> None:
        self.error, self.most = error, most
        self.runs: list[int] = []
        self.go, self.entered = threading.Event(), threading.Event()
        self.go.set()

    def __call__(self, rows: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        self.runs.append(len(rows))
        self.entered.set()
        assert self.go.wait(WAIT_S)
        if len(rows) > self.most or any(row[0] < 0 for row in rows):
            raise self.error
        return np.stack(rows).astype(np.float32)


def row(value: float) -> list[NDArray[np.float32]]:
    return [np.full(2, value, np.float32)]


@pytest.mark.parametrize("error", NO_MEMORY[:3], ids=str)
def test_memory_for_one_row_at_a_time_answers_everybody_but_the_one_it_is_short_for(error: Exception) -> None:
    run = Encoder(error)
    batcher = Batcher(run, "test", queue=9, most=3, window=LONG_S)
    futures = [batcher.submit(row(value)) for value in (1, -1, 3)]
    assert [futures[at].result(WAIT_S)[0, 0] for at in (0, 2)] == [1, 3]
    assert isinstance(futures[1].exception(WAIT_S), OutOfMemoryError)
    assert run.runs == [3, 1, 1, 1]
    assert batcher.alive
    batcher.close()


@pytest.mark.parametrize("error", [*LOST[:3], SystemExit(1)], ids=str)
def test_a_lost_accelerator_is_told_to_all_and_called_no_more(error: BaseException) -> None:
    told: list[EdgeqError] = []
    run = Encoder(error)
    run.go.clear()
    batcher = Batcher(run, "test", queue=9, most=2, window=LONG_S, lost=told.append)
    futures = [batcher.submit(row(value)) for value in (1, 2, 3, 4, 5)]  # two in the encoder, three wait
    run.go.set()
    kind = DeviceLostError if isinstance(error, Exception) else EngineError
    assert all(isinstance(future.exception(WAIT_S), kind) for future in futures)
    batcher._thread.join(WAIT_S)
    assert run.runs == [2], "not tried again one by one"
    assert not batcher.alive
    assert [type(one) for one in told] == [kind]
    with pytest.raises(kind):
        batcher.submit(row(6))
    batcher.close()


def test_the_other_encoder_of_the_accelerator_runs_nothing_any_more() -> None:
    run = Encoder(RuntimeError("unused"))
    run.go.clear()
    other = Batcher(run, "test", queue=9, most=1, window=LONG_S)
    inside, waiting = other.submit(row(1)), other.submit(row(2))
    assert run.entered.wait(WAIT_S)
    other.abandon(DeviceLostError("lost"))
    assert isinstance(waiting.exception(WAIT_S), DeviceLostError)
    run.go.set()
    assert inside.result(WAIT_S)[0, 0] == 1
    other.close()
    assert (run.runs, other.alive) == ([1], False)
