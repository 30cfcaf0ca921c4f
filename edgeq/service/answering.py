"""What the service needs of a runtime: exactly the shape of `edgeq.runtime.loop.Runtime`, so that HTTP stands apart."""

from __future__ import annotations

from typing import Protocol

from edgeq.runtime.asks import Ask
from edgeq.runtime.snapshot import Snapshot
from edgeq.runtime.stream import Stream

__all__ = ["Answering"]


class Answering(Protocol):
    """Answers requests from any thread."""

    @property
    def alive(self) -> bool:
        """Whether its worker runs and takes requests."""
        ...

    def submit(self, ask: Ask, deadline_s: float | None = None) -> Stream:
        """Ask; may take as long as it takes to prepare the image.

        Raises:
            InputError: the question cannot be asked; TooLargeError among them.
            BusyError: as many wait as may.
            ClosedError: no requests are taken any more.
        """
        ...

    def snapshot(self) -> Snapshot:
        """All figures now."""
        ...

    def close(self, drain: bool = True) -> None:
        """Take no more requests, end those there are or let them end, and stop."""
        ...
