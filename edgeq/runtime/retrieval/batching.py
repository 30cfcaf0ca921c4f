"""Rows of many requests in one run of an encoder: what comes within two milliseconds goes together."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Condition, Thread
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.runtime.scheduler.errors import BusyError, ClosedError
from edgeq.runtime.scheduler.retry_after import RetryAfter

__all__ = ["MOST_ROWS", "WINDOW_S", "BatchFigures", "Batcher"]

WINDOW_S: Final = 0.002
"""So long the first request of a batch waits for others, where the encoder is idle."""

MOST_ROWS: Final = 32
"""With so many rows a batch waits for no more."""

Vectors = NDArray[np.float32]
Row = NDArray[Any]


@dataclass(frozen=True)
class BatchFigures:
    """How a batcher stands.

    Attributes:
        running: requests whose rows are in the encoder.
        waiting: requests that wait.
        batches: that went through the encoder since the start, well or not.
        rows: in all of these together.
        ended: requests that have ended since the start, well or not.
        waited_s: seconds that all requests together waited for the encoder since the start.
    """

    running: int
    waiting: int
    batches: int
    rows: int
    ended: int
    waited_s: float


@dataclass(frozen=True)
class _Job:
    """What one request gives."""

    rows: Sequence[Row]
    finish: Callable[[Vectors], Vectors]
    future: Future[Vectors]
    since: float


class Batcher:
    """An encoder behind many requests: one thread, and a queue that is bounded.

    A request is never divided: one with more rows than a batch has is a batch of its own. A batch that fails is tried
    again request by request, so that nobody gets the fault of another's rows.

    Args:
        run: from rows to vectors, float32 [rows, dimension]; called in the thread.
        name: of the thread.
        queue: requests that may wait; one may in any case.
        most: rows with which a batch waits for no more.
        window: seconds that the first request of a batch waits for others.
        clock: seconds that do not go back.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Row]], Vectors],
        name: str,
        *,
        queue: int,
        most: int = MOST_ROWS,
        window: float = WINDOW_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._queue = max(queue, 1)
        self._most = most
        self._window = window
        self._clock = clock
        self._retry_after = RetryAfter()
        self._changed = Condition()
        self._waiting: deque[_Job] = deque()
        self._closed = False
        self._running = self._batches = self._rows = self._ended = 0
        self._waited_s = 0.0
        self._thread = Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether its thread still runs."""
        return self._thread.is_alive()

    @property
    def figures(self) -> BatchFigures:
        """How it stands now."""
        with self._changed:
            return BatchFigures(
                self._running, len(self._waiting), self._batches, self._rows, self._ended, self._waited_s
            )

    def submit(self, rows: Sequence[Row], finish: Callable[[Vectors], Vectors] = lambda made: made) -> Future[Vectors]:
        """What the encoder gives for some rows, in their order; a future that is cancelled in time costs nothing.

        Args:
            rows: of a request, one at least.
            finish: makes the request's result of the vectors, float32 [rows, dimension]; called in the thread.

        Raises:
            BusyError: as many requests wait as may.
            ClosedError: it was closed.
        """
        with self._changed:
            if self._closed:
                raise ClosedError
            if len(self._waiting) >= self._queue:
                self._waiting = deque(job for job in self._waiting if not job.future.cancelled())
            if len(self._waiting) >= self._queue:
                batches = sum(len(job.rows) for job in self._waiting) // self._most
                raise BusyError(self._retry_after.retry_after(batches, 1))
            future: Future[Vectors] = Future()
            self._waiting.append(_Job(rows, finish, future, self._clock()))
            if len(self._waiting) == 1 or self._full():  # between the two it has nothing to wake up for
                self._changed.notify_all()
            return future

    def close(self, drain: bool = True) -> None:
        """Take no more requests; let those that wait have their turn, or not. Returns when the thread has ended."""
        with self._changed:
            self._closed = True
            dropped = [] if drain else list(self._waiting)
            if dropped:
                self._waiting.clear()
            self._changed.notify_all()
        for job in dropped:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(ClosedError())
        self._thread.join()

    def _work(self) -> None:
        while jobs := self._next():
            start = self._clock()
            self._answer([job for job in jobs if job.future.set_running_or_notify_cancel()])
            self._retry_after.ended(self._clock() - start)
            with self._changed:
                self._running = 0
                self._ended += len(jobs)

    def _next(self) -> list[_Job]:
        """The next batch, as soon as it is full or its time has come; empty at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._waiting:
                left = self._waiting[0].since + self._window - self._clock()
                self._changed.wait_for(self._full, max(left, 0))
            jobs: list[_Job] = []
            rows = 0
            while self._waiting and (not jobs or rows + len(self._waiting[0].rows) <= self._most):
                jobs.append(self._waiting.popleft())
                rows += len(jobs[-1].rows)
            self._running = len(jobs)
            now = self._clock()
            self._waited_s += sum(now - job.since for job in jobs)
        return jobs or ([] if self._closed else self._next())

    def _full(self) -> bool:
        return self._closed or sum(len(job.rows) for job in self._waiting) >= self._most

    def _answer(self, jobs: list[_Job]) -> None:
        """Run jobs together, or, where that fails, each for itself."""
        if not jobs:
            return
        rows = [row for job in jobs for row in job.rows]
        with self._changed:
            self._batches += 1
            self._rows += len(rows)
        try:
            made = self._run(rows)
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
                return
            for job in jobs:
                self._answer([job])
            return
        start = 0
        for job in jobs:
            _finish(job, made[start : start + len(job.rows)])
            start += len(job.rows)


def _finish(job: _Job, made: Vectors) -> None:
    """Give a request its result."""
    try:
        job.future.set_result(job.finish(made))
    except Exception as error:
        job.future.set_exception(error)
