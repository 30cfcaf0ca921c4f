"""Reads a source in a thread of its own: frames keep coming while one is looked at, and a lost stream comes back."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final

from edgeq.errors import EdgeqError
from edgeq.frames.base import Frame, FrameSource
from edgeq.frames.handover import Handover
from edgeq.frames.pace import Pace

__all__ = ["RECONNECT_S", "Backoff", "Numbered", "Reader"]

RECONNECT_S: Final = 10.0
"""Seconds between two tries to connect again, at the most: a camera that is back is not left alone for longer."""

_JOIN_S: Final = 2.0


class Backoff:
    """How long to wait before the next try: twice as long each time, and a little by chance, so that many cameras'
    clients do not come back at once.

    Args:
        first, most: seconds.
    """

    def __init__(self, first: float = 0.5, most: float = RECONNECT_S) -> None:
        self._first, self._most = min(first, most), most
        self._now = self._first

    def reset(self) -> None:
        """It worked."""
        self._now = self._first

    def next(self) -> float:
        """Seconds to wait now."""
        wait, self._now = self._now, min(self._now * 2, self._most)
        return wait * random.uniform(0.75, 1.25)


@dataclass(frozen=True)
class Numbered:
    """A frame and where it stands.

    Attributes:
        number: of the frame among all that came, from 0.
        frame: itself.
        dropped: frames between the one that was taken before and this one which it replaced.
    """

    number: int
    frame: Frame
    dropped: int = 0


class Reader:
    """A thread that reads, within a `with` block; iterate over it in another.

    Args:
        source: read from its beginning, and where it is live again whenever it ends.
        fps: frames a second that are taken; None for all.
        keep_all: wait until each frame was taken, instead of keeping the newest.
        say: told, in a sentence, that a stream was lost or is back; called from the thread.
        backoff: waits between tries.

    Attributes:
        seen: frames that came.
        thinned: of these, left out for `fps`.
        lost: how often a live source ended.
    """

    def __init__(
        self,
        source: FrameSource,
        *,
        fps: float | None,
        keep_all: bool,
        say: Callable[[str], None],
        backoff: Backoff | None = None,
    ) -> None:
        self._source = source
        self._pace = Pace(fps)
        self._say = say
        self._backoff = backoff or Backoff()
        self._handover: Handover[Numbered] = Handover(keep_all=keep_all)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edgeq-frames", daemon=True)
        self.seen = self.thinned = self.lost = 0

    @property
    def dropped(self) -> int:
        """Frames that were due, but a newer one came before they were looked at."""
        return self._handover.dropped

    def __enter__(self) -> Reader:
        """Begin to read."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop. A thread that waits in a driver or a library is left to the end of the process."""
        self._stop.set()
        self._handover.end()
        self._thread.join(_JOIN_S)

    def __iter__(self) -> Iterator[Numbered]:
        """Each frame, or each time the newest.

        Raises:
            EdgeqError: of a source that is not live.
        """
        while (taken := self._handover.take()) is not None:
            numbered, dropped = taken
            yield replace(numbered, dropped=dropped)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                why = self._read()
                if self._stop.is_set():
                    return
                self.lost += 1
                wait = self._backoff.next()
                self._say(f"{why}; trying again in {wait:.1f} s")
                self._stop.wait(wait)
        except BaseException as error:
            self._handover.end(error)

    def _read(self) -> str:
        """Read until it ends; gives why a live source did, and ends the rest where it is not live."""
        back = self.lost > 0
        try:
            with closing(self._source.frames()) as frames:
                for frame in frames:
                    if back:
                        self._say(f"{self._source.name} is back")
                        back = False
                    self._backoff.reset()
                    if not self._put(frame):
                        return ""
        except EdgeqError as error:
            if not self._source.live:
                raise
            return error.what
        if not self._source.live:
            self._stop.set()
            self._handover.end()
        return f"{self._source.name} ended"

    def _put(self, frame: Frame) -> bool:
        """Hand a frame over, unless it is not due; False once nobody wants more."""
        number, self.seen = self.seen, self.seen + 1
        if not self._pace.take(frame.arrived if self._source.live else frame.seconds):
            self.thinned += 1
            return not self._stop.is_set()
        return self._handover.put(Numbered(number, frame)) and not self._stop.is_set()
