"""Warm children: started before they are needed, so that a call costs no start; one that was killed is replaced."""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from edgeq.confined.limits import Answer, Limits
from edgeq.confined.worker import Worker
from edgeq.errors import LimitError

__all__ = ["Pool"]

_CALLS: Final = 2000
"""Of one child, which is then replaced: what leaks, leaks no longer."""

_AGAIN_S: Final = 1.0


class Pool:
    """Children that take calls from any thread.

    They are started by a thread of its own, which lives as long as the pool: the kernel ends a child with the thread
    that started it.

    Args:
        size: children, and so calls at once; others wait.
        modules: that each child loads.
        calls: of one child, before it is replaced.
    """

    def __init__(self, size: int, modules: Sequence[str] = (), *, calls: int = _CALLS) -> None:
        self._size, self._modules, self._calls = size, tuple(modules), calls
        self._changed = threading.Condition()
        self._idle: list[Worker] = []
        self._busy: set[Worker] = set()
        self._starter: threading.Thread | None = None
        self._failed: LimitError | None = None
        self._closed = False

    def start(self) -> None:
        """Begin to start the children; they are ready soon after."""
        with self._changed:
            if self._starter is None and not self._closed:
                self._starter = threading.Thread(target=self._keep_full, name="edgeq-confined", daemon=True)
                self._starter.start()
                atexit.register(self.close)

    def run(self, function: str, plain: Mapping[str, Any], data: bytes = b"", *, limits: Limits, what: str) -> Answer:
        """Run a function in the next child that is free; the time runs from then on.

        Args:
            function, plain, data, limits, what: as for `edgeq.confined.worker.Worker.call`.

        Raises:
            LimitError: it took more than its limits allow, or ended the child, or the pool was closed.
            EdgeqError: what the function raises, of a class of `edgeq.errors`.
        """
        worker = self._take()
        try:
            return worker.call(function, plain, data, limits, what)
        finally:
            self._give_back(worker)

    def close(self) -> None:
        """Kill every child; calls under way, and those that come, raise LimitError."""
        with self._changed:
            self._closed = True
            idle = list(self._idle)
            self._idle.clear()
            for worker in self._busy:
                worker.end()
            self._changed.notify_all()
        for worker in idle:
            worker.kill()
        starter = self._starter
        if starter is not None:
            starter.join()
            atexit.unregister(self.close)

    def _take(self) -> Worker:
        self.start()
        with self._changed:
            while True:
                if self._closed:
                    raise LimitError("nothing is taken any more: the process ends")
                if self._idle:
                    worker = self._idle.pop()
                    self._busy.add(worker)
                    return worker
                if self._failed is not None and not self._busy:
                    raise self._failed
                self._changed.wait()

    def _give_back(self, worker: Worker) -> None:
        usable = worker.usable and worker.calls < self._calls
        with self._changed:
            self._busy.discard(worker)
            if usable and not self._closed:
                self._idle.append(worker)
            self._changed.notify_all()
        if not usable:
            worker.kill()

    def _keep_full(self) -> None:
        """Start what is missing, until the pool is closed."""
        while self._wait_for_one_missing():
            try:
                worker = Worker(self._modules)
            except (LimitError, OSError) as error:
                self._note_failure(error)
                continue
            with self._changed:
                self._failed = None
                if not self._closed:
                    self._idle.append(worker)
                    self._changed.notify_all()
                    continue
            worker.kill()

    def _wait_for_one_missing(self) -> bool:
        with self._changed:
            while not self._closed and len(self._idle) + len(self._busy) >= self._size:
                self._changed.wait()
            return not self._closed

    def _note_failure(self, error: Exception) -> None:
        """Tell who waits, and wait a while before the next try."""
        with self._changed:
            self._failed = error if isinstance(error, LimitError) else LimitError(f"no process can be started: {error}")
            self._changed.notify_all()
            end = time.monotonic() + _AGAIN_S
            while not self._closed and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)
