"""The requests that wait: first come, first served, with a bound on overtaking.

The first in the line that may start does. A large request that there is no room for yet lets smaller ones pass, so that
slots do not stand empty, but not for ever: once a given number of younger ones have started before it, none behind it
starts until it has. As every request in the line fits alone, it starts at the latest when all that run have ended. Two
that need the same never pass each other: where the younger has room, the elder has, and is asked first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgeq.runtime.scheduler.request_memory import RequestMemory

__all__ = ["QueuedRequest", "RequestQueue"]


@dataclass
class QueuedRequest:
    """One that waits.

    Attributes:
        id: of the request.
        needs: its bytes.
        deadline: when it is too late, in seconds; None for never.
        overtaken: how many younger ones have started before it.
    """

    id: str
    needs: RequestMemory
    deadline: float | None
    overtaken: int = 0

    def overdue(self, now: float) -> bool:
        """Whether it is too late."""
        return self.deadline is not None and now >= self.deadline


class RequestQueue:
    """The line.

    Args:
        overtakes: how many younger requests may start before one; 0 is strictly in turn.
    """

    def __init__(self, overtakes: int) -> None:
        self._overtakes = overtakes
        self._entries: dict[str, QueuedRequest] = {}

    def __len__(self) -> int:
        """How many wait."""
        return len(self._entries)

    def __contains__(self, id: str) -> bool:
        """Whether this one waits."""
        return id in self._entries

    def add(self, entry: QueuedRequest) -> None:
        """Put one at the end."""
        self._entries[entry.id] = entry

    def remove(self, id: str) -> None:
        """Take one out of the line, wherever it stands."""
        del self._entries[id]

    def overdue(self, now: float) -> list[str]:
        """The ids of those for which it is too late, in their order."""
        return [id for id, entry in self._entries.items() if entry.overdue(now)]

    def take(self, now: float, fits: Callable[[RequestMemory], bool]) -> QueuedRequest | None:
        """Take out the next that may start; None where none may.

        One that is overdue does not start, and holds its place until it is removed: so time alone lets nobody start.
        """
        ahead: list[QueuedRequest] = []
        for entry in self._entries.values():
            if fits(entry.needs) and not entry.overdue(now):
                for other in ahead:
                    other.overtaken += 1
                del self._entries[entry.id]
                return entry
            if entry.overtaken >= self._overtakes:
                return None
            ahead.append(entry)
        return None
