"""How long requests take, and from that, when it is worth coming back."""

from __future__ import annotations

import math
from collections import deque
from statistics import fmean
from typing import Final

__all__ = ["RetryAfter"]

_KEPT: Final = 16
_FIRST_GUESS_S: Final = 10.0
_LONGEST_S: Final = 600


class RetryAfter:
    """The mean duration of the last 16 requests that ran to their end, in seconds; 10 before there is one."""

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=_KEPT)

    @property
    def seconds(self) -> float:
        """Of one request."""
        return fmean(self._last) if self._last else _FIRST_GUESS_S

    def ended(self, seconds: float) -> None:
        """Note a request that took so long from its start."""
        self._last.append(max(seconds, 0.0))

    def retry_after(self, waiting: int, running: int) -> int:
        """When all that wait now, and one more, should have started: whole seconds, 1 to 600.

        Of `running` requests that take m seconds each, one ends every m / running seconds, and one that waits starts.
        So a client that is told to come back finds the queue worked off, and not the crowd that was sent away with him.
        """
        seconds = self.seconds * (waiting + 1) / max(running, 1)
        return min(max(math.ceil(seconds), 1), _LONGEST_S)
