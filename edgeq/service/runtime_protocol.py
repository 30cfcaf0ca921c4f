"""What the service needs of a runtime: exactly the shape of `edgeq.runtime.scheduler.runtime.Runtime`, so that HTTP
stands apart.
"""

from __future__ import annotations

from typing import Protocol

from edgeq.runtime.scheduler.snapshot import Snapshot
from edgeq.runtime.vlm.api import GenerationRequest
from edgeq.runtime.vlm.stream import Stream

__all__ = ["RuntimeProtocol"]


class RuntimeProtocol(Protocol):
    """Answers requests from any thread."""

    @property
    def alive(self) -> bool:
        """Whether its worker runs and takes requests."""
        ...

    def submit(self, ask: GenerationRequest, deadline_s: float | None = None) -> Stream:
        """Ask; may take as long as it takes to prepare the images.

        Raises:
            InputError: the question cannot be asked; TooLargeError and ContextError among them.
            BusyError: as many wait as may.
            ClosedError: no requests are taken any more.
        """
        ...

    def submit_known(self, ask: GenerationRequest, deadline_s: float | None = None) -> Stream | None:
        """The same for what was asked before about files that were seen before, in microseconds; else None.

        Raises:
            InputError: as `submit`.
            BusyError: as `submit`.
            ClosedError: as `submit`.
        """
        ...

    def snapshot(self) -> Snapshot:
        """All figures now."""
        ...

    def close(self, drain: bool = True) -> None:
        """Take no more requests, end those there are or let them end, and stop."""
        ...
