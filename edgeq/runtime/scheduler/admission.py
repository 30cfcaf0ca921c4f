"""Which request may start: a state machine over bytes, slots and time, which does nothing itself.

Before a request starts, all that it will need is reserved out of one budget. The caches live in it too, on what the
requests leave. What never fits is refused, what does not fit now waits in a line of bounded length, and what finds the
line full is told when to come back. The budget follows the machine: see `edgeq.runtime.scheduler.memory_pressure`.

Time comes in through arguments only, in seconds of one clock that does not go back. Bytes are looked up nowhere. The
reservation is reckoned again from those that run, so there is no counter that could be wrong. Not for several threads
at once: who has several, takes a lock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edgeq.errors import InputError
from edgeq.runtime.scheduler.decisions import (
    Action,
    Admitted,
    Busy,
    Decision,
    Expired,
    HoldNewWork,
    Queued,
    ResumeNewWork,
    ShrinkCaches,
    TooLarge,
)
from edgeq.runtime.scheduler.memory_pressure import MemoryPressure
from edgeq.runtime.scheduler.queue import QueuedRequest, RequestQueue
from edgeq.runtime.scheduler.request_memory import RequestMemory, reserved_together
from edgeq.runtime.scheduler.retry_after import RetryAfter

__all__ = ["MARGIN_BYTES", "RESERVE_BYTES", "SLOTS", "Admission", "Rules"]

SLOTS: Final = 4
"""Requests at once: bitsandbytes takes a slow path from 5 rows on (compute capability 8.7)."""

RESERVE_BYTES: Final = 512 << 20
"""So much of the machine's memory stays free."""

MARGIN_BYTES: Final = 128 << 20
"""So much more must be free before work that was held is let in again."""


@dataclass(frozen=True)
class Rules:
    """What admission goes by.

    Attributes:
        budget: bytes for all requests and caches.
        slots: requests at once.
        queue: requests that may wait.
        overtakes: how many younger requests may start before one that waits for room.
        reserve: bytes of the machine that stay free.
        margin: bytes beyond the reserve that must be free before work that was held is let in again.

    Raises:
        InputError: a number is out of range.
    """

    budget: int
    slots: int = SLOTS
    queue: int = 16
    overtakes: int = SLOTS
    reserve: int = RESERVE_BYTES
    margin: int = MARGIN_BYTES

    def __post_init__(self) -> None:
        """Check the numbers."""
        least = {"budget": 1, "slots": 1, "queue": 0, "overtakes": 0, "reserve": 0, "margin": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise InputError(f"{name} is {getattr(self, name)}", expected=f"{bound} or more")


@dataclass(frozen=True)
class _Running:
    """One that runs, since when, and until when at most (seconds; None for no end)."""

    needs: RequestMemory
    slot: int
    started: float
    deadline: float | None


class Admission:
    """The state machine.

    Every id that is submitted ends in exactly one way: finished, cancelled, expired, or refused (`TooLarge`, `Busy`).
    Calls that free something return who may start now. The caller that gets an `Admitted` first brings the caches down
    to `cache_limit_bytes`, and then starts it in its slot.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._running: dict[str, _Running] = {}
        self._queue = RequestQueue(rules.overtakes)
        self._pressure = MemoryPressure(rules.reserve, rules.margin)
        self._retry_after = RetryAfter()

    @property
    def active(self) -> dict[str, int]:
        """Who runs, in the order of their starts: id -> slot."""
        return {id: running.slot for id, running in self._running.items()}

    @property
    def queue_length(self) -> int:
        """How many wait."""
        return len(self._queue)

    @property
    def held(self) -> bool:
        """Nothing starts, because too little memory is free."""
        return self._pressure.held

    @property
    def reserved_bytes(self) -> int:
        """Bytes reserved for those that run; never more than the budget."""
        return reserved_together(running.needs for running in self._running.values())

    @property
    def limit_bytes(self) -> int:
        """The budget, or what of it this machine can really give.

        It can fall below what is reserved, when others take memory; then nothing starts until it is enough again.
        """
        reachable = self._pressure.reachable
        return self.rules.budget if reachable is None else min(self.rules.budget, reachable)

    @property
    def cache_limit_bytes(self) -> int:
        """Bytes that all caches together may hold now."""
        left = max(self.limit_bytes - self.reserved_bytes, 0)
        cap = self._pressure.cache_cap
        return left if cap is None else min(left, cap)

    def submit(self, id: str, needs: RequestMemory, now: float, deadline: float | None = None) -> Decision:
        """A request comes.

        Args:
            id: its own, of those that wait and run.
            needs: its bytes.
            now: seconds.
            deadline: when it is too late to go on, in seconds of the same clock; None for never.

        Raises:
            ValueError: the id waits or runs already.
        """
        if id in self._running or id in self._queue:
            raise ValueError(f"{id} was submitted already")
        if needs.alone > self.rules.budget:
            return TooLarge(id, needs.alone, self.rules.budget)
        ahead = len(self._queue)
        self._queue.add(QueuedRequest(id, needs, deadline))
        admitted = self._start(now)  # nobody else: who waited could not start, and nothing has been freed since
        if admitted:
            return admitted[0]
        if ahead >= self.rules.queue:
            self._queue.remove(id)
            return Busy(id, self._retry_after.retry_after(ahead, len(self._running)))
        return Queued(id, ahead)

    def finish(self, id: str, now: float) -> list[Admitted]:
        """A request has ended by itself, and its slot is free; returns who may start now.

        Raises:
            ValueError: it does not run.
        """
        if id not in self._running:
            raise ValueError(f"{id} does not run")
        self._retry_after.ended(now - self._running.pop(id).started)
        return self._start(now)

    def cancel(self, id: str, now: float) -> list[Admitted]:
        """A request is no longer wanted; its slot, if it ran, is free. Returns who may start now.

        An id that has ended already is left alone: a client may hang up at any time.
        """
        if id in self._queue:
            self._queue.remove(id)
        else:
            self._running.pop(id, None)
        return self._start(now)

    def expire(self, now: float) -> list[Expired | Admitted]:
        """End what is over its deadline, first those that run. Behind them in the list, who may start now.

        The slots of the expired must be let go before the admitted start.
        """
        late = [id for id, one in self._running.items() if one.deadline is not None and now >= one.deadline]
        expired = [Expired(id, self._late(id, now)) for id in late]
        for id in self._queue.overdue(now):
            self._queue.remove(id)
            expired.append(Expired(id, None))
        return [*expired, *self._start(now)]

    def observe(
        self, free_bytes: int, now: float, *, cached_bytes: int = 0, own_bytes: int | None = None
    ) -> list[Action]:
        """Follow the machine's memory.

        Args:
            free_bytes: that a process could still take, what the kernel can reclaim included.
            now: seconds.
            cached_bytes: that the caches hold.
            own_bytes: that this process has taken since its models were loaded, caches included. With it, requests
                start only where the machine really has what they need; None where it is not known, and then only the
                reserve is watched.

        Returns:
            In this order, as far as there is a reason: `ShrinkCaches`; `HoldNewWork` or `ResumeNewWork`; who may start.
        """
        before = self.held
        self._pressure.observe(free_bytes, cached_bytes, own_bytes)
        actions: list[Action] = []
        if cached_bytes > self.cache_limit_bytes:
            actions.append(ShrinkCaches(cached_bytes - self.cache_limit_bytes))
        if self.held != before:
            actions.append(HoldNewWork() if self.held else ResumeNewWork())
        return [*actions, *self._start(now)]

    def _late(self, id: str, now: float) -> int:
        """End a request that ran for too long; returns its slot. What it took counts as a duration: from below."""
        running = self._running.pop(id)
        self._retry_after.ended(now - running.started)
        return running.slot

    def _start(self, now: float) -> list[Admitted]:
        """Let in those that may start now."""
        admitted = []
        while (entry := self._queue.take(now, self._fits)) is not None:
            slot = min(set(range(self.rules.slots)) - set(self.active.values()))
            self._running[entry.id] = _Running(entry.needs, slot, now, entry.deadline)
            admitted.append(Admitted(entry.id, slot))
        return admitted

    def _fits(self, needs: RequestMemory) -> bool:
        """Whether a request may start beside those that run; the caches give way."""
        if self.held or len(self._running) >= self.rules.slots:
            return False
        return reserved_together([*(one.needs for one in self._running.values()), needs]) <= self.limit_bytes
