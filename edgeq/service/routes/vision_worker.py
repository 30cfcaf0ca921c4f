"""One vision graph behind many requests: they take turns on one thread, and not too many may wait."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol

from PIL import Image

from edgeq.errors import DeviceLostError
from edgeq.faults import known_fault
from edgeq.runtime.scheduler.retry_after import RetryAfter
from edgeq.service.http.errors import RequestError

__all__ = ["Sees", "VisionWorker", "VisionWorkerFigures"]


class Sees(Protocol):
    """What looks at an image: its pixels are made ready where it is handed in, and run when its turn comes."""

    def pixels(self, image: Image.Image) -> Any:
        """What is run for an image (mode RGB); raises ImageError where it cannot be brought to the graph's size."""
        ...

    def run(self, pixels: Any) -> Any:
        """What is seen; raises EngineError where the engine fails."""
        ...


@dataclass(frozen=True)
class VisionWorkerFigures:
    """How it stands.

    Attributes:
        running: images in work, one at most.
        waiting: images that wait.
        ended: images that have ended since the start, well or not.
    """

    running: int
    waiting: int
    ended: int


class VisionWorker:
    """A classifier's, an encoder's or a detector's graph, or one that gives each pixel a class.

    Args:
        graph: it.
        queue: images that may wait.
    """

    def __init__(self, graph: Sees, *, queue: int) -> None:
        self._graph = graph
        self._queue = queue
        self._retry_after = RetryAfter()
        self._lock = Lock()
        self._waiting = self._ended = 0
        self._lost: DeviceLostError | None = None
        self._worker = ThreadPoolExecutor(1, "edgeq-seeing")

    @property
    def alive(self) -> bool:
        """Whether it still looks at images: not once the accelerator is lost."""
        return self._lost is None

    @property
    def figures(self) -> VisionWorkerFigures:
        """How it stands now."""
        with self._lock:
            return VisionWorkerFigures(min(self._waiting, 1), max(self._waiting - 1, 0), self._ended)

    def submit(self, image: Image.Image) -> Future[Any]:
        """What the graph gives for an image (mode RGB); the image is let go at once.

        Raises:
            RequestError: 429 as many wait as may, 503 it was closed.
            ImageError: the image cannot be brought to the graph's size.
            DeviceLostError: the accelerator is lost.
        """
        if self._lost is not None:
            raise self._lost
        pixels = self._graph.pixels(image)
        with self._lock:
            if self._waiting > self._queue:
                retry_after = self._retry_after.retry_after(self._waiting, 1)
                raise RequestError(429, "busy", "too many images wait already", retry_after=retry_after)
            try:
                future = self._worker.submit(self._run, pixels)
            except RuntimeError as error:
                raise RequestError(503, "draining", "the service is stopping", retry_after=5) from error
            self._waiting += 1
        future.add_done_callback(lambda _done: self._leave())
        return future

    async def wait(self, future: Future[Any], seconds: float) -> Any:
        """The result of `submit`; who stops waiting takes it back, unless it runs already.

        Raises:
            RequestError: 408 it took longer than `seconds`.
            EngineError: the engine failed.
            OutOfMemoryError: memory ran out on this image.
        """
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), max(seconds, 0))
        except asyncio.TimeoutError as error:
            raise RequestError(408, "deadline", "the request took too long") from error
        finally:
            future.cancel()

    def close(self, drain: bool = True) -> None:
        """Take no more images; let those that wait have their turn, or not."""
        self._worker.shutdown(wait=True, cancel_futures=not drain)

    def _leave(self) -> None:
        with self._lock:
            self._waiting -= 1
            self._ended += 1

    def _run(self, pixels: Any) -> Any:
        """What is seen; once the accelerator is lost it is called no more, and all who wait are told so."""
        if self._lost is not None:
            raise self._lost
        start = time.monotonic()
        try:
            found = self._graph.run(pixels)
        except Exception as error:
            fault = known_fault(error)
            if isinstance(fault, DeviceLostError):
                self._lost = fault
            if fault is None or fault is error:
                raise
            raise fault from error
        self._retry_after.ended(time.monotonic() - start)
        return found
