"""So many frames a second at most."""

from __future__ import annotations

__all__ = ["Pace"]

_EARLY = 1e-6


class Pace:
    """Says which frames are taken, by their times; where these go back, it starts again.

    Args:
        fps: frames a second; None takes all.
    """

    def __init__(self, fps: float | None) -> None:
        self._step = None if fps is None else 1 / fps
        self._next: float | None = None
        self._last = 0.0

    def take(self, seconds: float | None) -> bool:
        """Whether a frame is due; one without a time always is.

        Args:
            seconds: its time, of any clock.
        """
        if self._step is None or seconds is None:
            return True
        back, self._last = seconds < self._last, seconds
        if self._next is None or back:
            self._next = seconds
        if seconds < self._next - _EARLY:
            return False
        self._next += self._step
        if self._next <= seconds:  # there were none for a while
            self._next = seconds + self._step
        return True
