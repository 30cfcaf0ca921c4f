"""What is kept of earlier requests, bounded in bytes: the least recently used goes first.

All kinds share one bound, so that whatever is asked for most gets the room. For one thread; `figures` may be read from
others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Literal

from edgeq.runtime.scheduler.snapshot import CacheFigures

__all__ = ["Kind", "LruCache"]

Kind = Literal["features", "prefixes"]


@dataclass
class _Count:
    entries: int = 0
    bytes: int = 0
    hits: int = 0
    misses: int = 0
    evicted: int = 0


class LruCache:
    """Values with a size, by kind and key.

    Args:
        limit: bytes that they may have together.
    """

    def __init__(self, limit: int) -> None:
        self._limit = self._most = limit
        self._values: OrderedDict[tuple[Kind, Hashable], tuple[Any, int]] = OrderedDict()
        self._counts: dict[Kind, _Count] = {"features": _Count(), "prefixes": _Count()}
        self.bytes = 0

    def get(self, kind: Kind, key: Hashable) -> Any | None:
        """The value, which is now the most recently used; None where there is none."""
        found = self._values.get((kind, key))
        if found is None:
            self._counts[kind].misses += 1
            return None
        self._counts[kind].hits += 1
        self._values.move_to_end((kind, key))
        return found[0]

    def touch(self, kind: Kind, key: Hashable) -> None:
        """The value is now the most recently used; nothing is counted."""
        self._values.move_to_end((kind, key))

    def put(self, kind: Kind, key: Hashable, value: Any, size: int) -> None:
        """Keep a value; others give way. One that is larger than the bound is not kept.

        Args:
            kind: counted and listed apart from others.
            key: hashable, for this kind.
            value: is not copied.
            size: of it, in bytes.
        """
        self._drop(kind, key)
        if size > self._limit:
            return
        self._shrink_to(self._limit - size)
        self._values[kind, key] = (value, size)
        self._count(kind, 1, size)

    def bound(self, limit: int) -> None:
        """Hold no more than `limit` bytes from now on, nor more than at the beginning."""
        self._limit = min(max(limit, 0), self._most)
        self._shrink_to(self._limit)

    def figures(self, kind: Kind) -> CacheFigures:
        """Of one kind."""
        count = self._counts[kind]
        return CacheFigures(count.entries, count.bytes, count.hits, count.misses, count.evicted)

    def _shrink_to(self, most: int) -> None:
        while self.bytes > most:
            kind, key = next(iter(self._values))
            self._drop(kind, key)
            self._counts[kind].evicted += 1

    def _drop(self, kind: Kind, key: Hashable) -> None:
        found = self._values.pop((kind, key), None)
        if found is not None:
            self._count(kind, -1, -found[1])

    def _count(self, kind: Kind, entries: int, size: int) -> None:
        self.bytes += size
        self._counts[kind].entries += entries
        self._counts[kind].bytes += size
