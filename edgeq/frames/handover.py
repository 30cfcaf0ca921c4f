"""One place between the thread that reads and the one that looks: the newest frame, or each in its turn."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

__all__ = ["Handover"]

T = TypeVar("T")


class Handover(Generic[T]):
    """Holds one item.

    Args:
        keep_all: who puts one waits until the one before was taken; else it takes its place, and that one is dropped.
    """

    def __init__(self, *, keep_all: bool) -> None:
        self._keep_all = keep_all
        self._changed = threading.Condition()
        self._item: T | None = None
        self._ended = False
        self._error: BaseException | None = None
        self.dropped = self._told = 0

    def put(self, item: T) -> bool:
        """Leave an item; False where nobody takes any more."""
        with self._changed:
            if self._keep_all:
                self._changed.wait_for(lambda: self._item is None or self._ended)
            if self._ended:
                return False
            self.dropped += self._item is not None
            self._item = item
            self._changed.notify_all()
            return True

    def end(self, error: BaseException | None = None) -> None:
        """Nothing comes any more, or is taken any more.

        Args:
            error: raised by `take` once the last item was taken.
        """
        with self._changed:
            if not self._ended:
                self._ended, self._error = True, error
            self._changed.notify_all()

    def take(self) -> tuple[T, int] | None:
        """Wait for the item and take it, with how many were dropped since the last; None at the end, or its error."""
        with self._changed:
            self._changed.wait_for(lambda: self._item is not None or self._ended)
            item, self._item = self._item, None
            self._changed.notify_all()
            if item is None and self._error is not None:
                raise self._error
            dropped, self._told = self.dropped - self._told, self.dropped
            return None if item is None else (item, dropped)
