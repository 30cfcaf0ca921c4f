"""Embeddings of texts seen before, by their tokens, within a bound of bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from threading import Lock
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeq.runtime.scheduler.snapshot import CacheFigures

__all__ = ["VectorCache"]

_OVERHEAD: Final = 300
"""Bytes that Python takes for an entry beside its key and its numbers."""


class VectorCache:
    """Keeps the vectors that were asked for last; for any number of threads.

    Args:
        most_bytes: of all keys and vectors together; 0 keeps nothing.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._lock = Lock()
        self._entries: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()
        self._bytes = self._hits = self._misses = self._evicted = 0

    @property
    def figures(self) -> CacheFigures:
        """How it stands now."""
        with self._lock:
            return CacheFigures(
                entries=len(self._entries),
                bytes=self._bytes,
                hits=self._hits,
                misses=self._misses,
                evicted=self._evicted,
            )

    def known(self, keys: Iterable[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """Those that are there, float32 [d] each; each key counts as a hit or a miss."""
        found: dict[bytes, NDArray[np.float32]] = {}
        with self._lock:
            for key in keys:
                vector = self._entries.get(key)
                if vector is None:
                    self._misses += 1
                    continue
                self._hits += 1
                self._entries.move_to_end(key)
                found[key] = vector
        return found

    def keep(self, vectors: Mapping[bytes, NDArray[np.float32]]) -> None:
        """Keep vectors, float32 [d] each, and let go of those that were not asked for the longest."""
        with self._lock:
            for key, vector in vectors.items():
                if key in self._entries or _size(key, vector) > self._most:
                    continue
                self._entries[key] = vector.copy()  # a row of a batch would hold on to all of it
                self._bytes += _size(key, vector)
            while self._bytes > self._most:
                gone, vector = self._entries.popitem(last=False)
                self._bytes -= _size(gone, vector)
                self._evicted += 1


def _size(key: bytes, vector: NDArray[np.float32]) -> int:
    return len(key) + vector.nbytes + _OVERHEAD
