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

from edgeq.errors import DeviceLostError, EdgeqError, EngineError
from edgeq.faults import known_fault
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
    again request by request, so that nobody gets the fault of another's rows, nor of memory that suffices for fewer.
    Where the accelerator is lost, all who wait are told, and it is called no more.

    Args:
        run: from rows to vectors, float32 [rows, dimension]; called in the thread.
        name: of the thread.
        queue: requests that may wait; one may in any case.
        most: rows with which a batch waits for no more.
        window: seconds that the first request of a batch waits for others.
        clock: seconds that do not go back.
        lost: told once why nothing is run any more, after those who waited were.
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
        lost: Callable[[EdgeqError], None] = lambda _error: None,
    ) -> None:
        self._run = run
        self._lost = lost
        self._queue = max(queue, 1)
        self._most = most
        self._window = window
        self._clock = clock
        self._retry_after = RetryAfter()
        self._changed = Condition()
        self._waiting: deque[_Job] = deque()
        self._closed = False
        self._abandoned: EdgeqError | None = None
        self._running = self._batches = self._rows = self._ended = 0
        self._waited_s = 0.0
        self._thread = Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether its thread still runs and goes on."""
        return self._thread.is_alive() and self._abandoned is None

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
            DeviceLostError: the accelerator is lost.
        """
        with self._changed:
            if self._abandoned is not None:
                raise self._abandoned
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
            dropped = [] if drain else self._drop()
            self._changed.notify_all()
        _refuse(dropped, ClosedError())
        self._thread.join()

    def abandon(self, error: EdgeqError) -> None:
        """Run nothing any more, and tell those who wait; what is in the encoder now is not waited for."""
        with self._changed:
            self._closed, self._abandoned = True, self._abandoned or error
            dropped = self._drop()
            self._changed.notify_all()
        _refuse(dropped, error)

    def _drop(self) -> list[_Job]:
        dropped = list(self._waiting)
        self._waiting.clear()
        return dropped

    def _work(self) -> None:
        try:
            while jobs := self._next():
                start = self._clock()
                self._answer([job for job in jobs if job.future.set_running_or_notify_cancel()])
                self._retry_after.ended(self._clock() - start)
                with self._changed:
                    self._running = 0
                    self._ended += len(jobs)
        except BaseException as error:  # the accelerator is lost, a bug, or a library that ended its thread
            told = _judged(error)[0]
            why = told if isinstance(told, EdgeqError) else EngineError("the encoder has stopped", causes=(str(told),))
            self.abandon(why)
            self._lost(why)

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
        if self._abandoned is not None:
            for job in jobs:
                job.future.set_exception(self._abandoned)
            return
        rows = [row for job in jobs for row in job.rows]
        with self._changed:
            self._batches += 1
            self._rows += len(rows)
        fault, stops = None, False
        try:
            made = self._run(rows)
        except BaseException as error:
            fault, stops = _judged(error)
        if fault is not None:  # outside of the handler, which holds what was being computed
            self._failed(jobs, fault, stops=stops)
            return
        start = 0
        for job in jobs:
            _finish(job, made[start : start + len(job.rows)])
            start += len(job.rows)

    def _failed(self, jobs: list[_Job], error: Exception, *, stops: bool) -> None:
        """Try several jobs one by one, or tell the one that it is; where nothing can be run any more, all of them."""
        if len(jobs) > 1 and not stops:
            for job in jobs:
                self._answer([job])
            return
        for job in jobs:
            job.future.set_exception(error)
        if stops:
            raise error


def _judged(error: BaseException) -> tuple[Exception, bool]:
    """What those in a batch are told, and whether it was the last one."""
    fault = known_fault(error)
    if fault is not None:
        return fault, isinstance(fault, DeviceLostError)
    if isinstance(error, Exception):
        return error, False
    return EngineError("the encoder has stopped", causes=(f"{type(error).__name__}: {error}",)), True


def _refuse(jobs: Sequence[_Job], error: EdgeqError) -> None:
    """Tell those who have not begun."""
    for job in jobs:
        if job.future.set_running_or_notify_cancel():
            job.future.set_exception(error)


def _finish(job: _Job, made: Vectors) -> None:
    """Give a request its result."""
    try:
        job.future.set_result(job.finish(made))
    except Exception as error:
        job.future.set_exception(error)
