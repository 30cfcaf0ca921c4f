"""What the machine's free memory asks for: caches give way first, then new work waits. What runs is left alone.

A threshold alone would flap: work that is held lets memory become free, which lets work in again. So work is held when
less than the reserve is free and the caches cannot make that good, and let in again when a margin more than the reserve
is free. Between the two the caches do not grow.
"""

from __future__ import annotations

__all__ = ["MemoryPressure"]


class MemoryPressure:
    """The state between two looks at the machine.

    Attributes:
        held: nothing may start.
        cache_cap: bytes that the caches may hold at most; None before the first look.
        reachable: bytes that requests and caches can have in all on this machine; None where that is not known.

    Args:
        reserve: bytes that stay free for the system and for what was reckoned too low.
        margin: bytes beyond it that must be free before work is let in again.
    """

    def __init__(self, reserve: int, margin: int) -> None:
        self._reserve, self._margin = reserve, margin
        self.held = False
        self.cache_cap: int | None = None
        self.reachable: int | None = None

    def observe(self, free: int, cached: int, own: int | None) -> None:
        """Look at the machine.

        Args:
            free: bytes that a process could still take.
            cached: bytes in the caches.
            own: bytes that this process has taken since its models were loaded, caches included; None where not known.
        """
        spare = free - self._reserve
        self.held = spare + cached < 0 or (self.held and spare < self._margin)
        self.cache_cap = self._cap(spare, cached)
        self.reachable = None if own is None else max(own + spare, 0)

    def _cap(self, spare: int, cached: int) -> int:
        """Nothing while work waits; else less by what is missing, or more by what is free beyond the margin."""
        if self.held:
            return 0
        return cached + (spare if spare < 0 else max(spare - self._margin, 0))
