"""Look at one frame after another, and count what became of them all."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from PIL import Image
from pydantic import BaseModel, ConfigDict

from edgeq.errors import DeviceLostError, EdgeqError, ImageError, InputError
from edgeq.frames.base import FrameSource
from edgeq.frames.change import Change
from edgeq.frames.reader import RECONNECT_S, Backoff, Reader
from edgeq.runtime.scheduler.errors import TooLargeError

__all__ = ["FrameCounts", "Looked", "Looking", "LookingOptions"]

T = TypeVar("T")

_LATENCIES: Final = 4096
"""Of the last so many frames quantiles are told: memory does not grow with a stream."""


@dataclass(frozen=True)
class LookingOptions:
    """What is looked at.

    Attributes:
        fps: frames a second at most; None for all.
        min_change: percent by which a frame must differ from the last that was looked at: `edgeq.frames.change`.
        frames: end after so many answers; None goes on.
        keep_all: no frame is dropped: the source waits.
        reconnect_s: seconds between two tries to connect to a stream again, at the most.
    """

    fps: float | None = None
    min_change: float = 0.0
    frames: int | None = None
    keep_all: bool = False
    reconnect_s: float = RECONNECT_S


class FrameCounts(BaseModel):
    """What became of the frames.

    Attributes:
        seen: that came.
        thinned: of these, left out for the frame rate that was asked for.
        dropped: left out as a newer one had come.
        unchanged: left out as they hardly differ from the last that was looked at.
        answered, failed: of those that were looked at.
        damaged: pieces that could not be decoded.
        lost: how often a stream was lost.
        latency_median_s, latency_p95_s, latency_max_s: from a frame's arrival to its answer, of the last 4,096; null
            where there is none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seen: int
    thinned: int
    dropped: int
    unchanged: int
    answered: int
    failed: int
    damaged: int
    lost: int
    latency_median_s: float | None
    latency_p95_s: float | None
    latency_max_s: float | None


@dataclass(frozen=True)
class Looked(Generic[T]):
    """A frame that was looked at.

    Attributes:
        number: of the frame, from 0.
        name: of the frame, where it has one.
        seconds: as `Frame.seconds`.
        time: when it arrived, in seconds since 1970.
        image: its pixels.
        answer: what came of it; an error where that failed.
        latency: seconds from its arrival to the answer.
        change: percent; None where it was not measured, or is the first.
        dropped, unchanged: frames between the one looked at before and this one.
    """

    number: int
    name: str | None
    seconds: float | None
    time: float
    image: Image.Image | None
    answer: T | EdgeqError
    latency: float
    change: float | None
    dropped: int
    unchanged: int

    @property
    def shown_at(self) -> float:
        """Seconds of the frame in a video of those that were looked at."""
        return self.time if self.seconds is None else self.seconds


class Looking(Generic[T]):
    """Looks at frames of a source; iterate over it once.

    Args:
        source: of frames.
        look: from an image in mode RGB to an answer; raises EdgeqError.
        options: what is looked at.
        say: told in a sentence what a person should know.
    """

    def __init__(
        self,
        source: FrameSource,
        look: Callable[[Image.Image], T],
        options: LookingOptions,
        say: Callable[[str], None],
    ) -> None:
        self._source, self._look, self._options = source, look, options
        backoff = Backoff(most=options.reconnect_s)
        self._reader = Reader(source, fps=options.fps, keep_all=options.keep_all, say=say, backoff=backoff)
        self._unchanged = self._answered = self._failed = 0
        self._latencies: deque[float] = deque(maxlen=_LATENCIES)

    @property
    def counts(self) -> FrameCounts:
        """So far."""
        last = sorted(self._latencies)
        reader = self._reader
        return FrameCounts(
            seen=reader.seen,
            thinned=reader.thinned,
            dropped=reader.dropped,
            unchanged=self._unchanged,
            answered=self._answered,
            failed=self._failed,
            damaged=self._source.damaged,
            lost=reader.lost,
            latency_median_s=last[len(last) // 2] if last else None,
            latency_p95_s=last[len(last) * 95 // 100] if last else None,
            latency_max_s=last[-1] if last else None,
        )

    def __iter__(self) -> Generator[Looked[T], None, None]:
        """What came of each frame, as it comes.

        Raises:
            DeviceLostError: the accelerator is lost.
            InputError: the question cannot be asked about any image, or a film cannot be read.
        """
        changes = Change(self._options.min_change)
        dropped = unchanged = 0
        with self._reader as reader:
            for numbered in reader:
                frame, image, change = numbered.frame, None, None
                dropped += numbered.dropped
                answer: T | EdgeqError
                try:
                    image = frame.image()
                    taken, change = changes.take(image)
                    if not taken:
                        self._unchanged, unchanged = self._unchanged + 1, unchanged + 1
                        continue
                    answer = self._look(image)
                    self._answered += 1
                except EdgeqError as error:
                    if _is_of_every_frame(error):
                        raise
                    answer = error
                    self._failed += 1
                now = time.monotonic()
                self._latencies.append(now - frame.arrived)
                yield Looked(
                    number=numbered.number,
                    name=frame.name,
                    seconds=frame.seconds,
                    time=time.time() - (now - frame.arrived),
                    image=image,
                    answer=answer,
                    latency=now - frame.arrived,
                    change=change,
                    dropped=dropped,
                    unchanged=unchanged,
                )
                dropped = unchanged = 0
                if self._options.frames and self._answered + self._failed >= self._options.frames:
                    return


def _is_of_every_frame(error: EdgeqError) -> bool:
    """Whether an error is no fault of the frame, so that the next one would meet it as well."""
    if isinstance(error, DeviceLostError):
        return True
    return isinstance(error, InputError) and not isinstance(error, ImageError | TooLargeError)
