"""The embeddings as they lie on disk: shards of float16, memory-mapped, read in blocks or by row."""

from __future__ import annotations

import mmap
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import InputError

__all__ = ["BLOCK_ROWS", "Block", "Shards", "VectorReader", "live_rows"]

BLOCK_ROWS: Final = 16_384
"""Rows that are widened to float32 at once."""

_NORM_SLACK: Final = 0.01
"""Float16 moves the length of a normalized vector by less than a tenth of this."""


class VectorReader(Protocol):
    """What gives embeddings by row number."""

    @property
    def rows(self) -> int:
        """How many there are."""

    @property
    def dimension(self) -> int:
        """Numbers of each."""

    def read(self, ids: NDArray[np.int64]) -> NDArray[np.float16]:
        """Embeddings float16 [n, dimension] of the rows int64 [n], in that order."""


@dataclass(frozen=True)
class Block:
    """Some rows, ready for faiss.

    Attributes:
        ids: row numbers of the catalog, int64 [n], ascending.
        vectors: float32 [n, dimension], C-contiguous.
        end: the row behind the last one looked at, removed ones among them.
    """

    ids: NDArray[np.int64]
    vectors: NDArray[np.float32]
    end: int


class Shards:
    """Shards one behind the other: row 0 is the first of the first shard.

    Args:
        shards: float16 [n, dimension] each, memory-mapped as a rule; what they hold is not read here.

    Raises:
        InputError: there is none, or one is no float16 matrix, or they differ in dimension.
    """

    def __init__(self, shards: Iterable[NDArray[np.float16]]) -> None:
        self._shards = tuple(shards)
        if not self._shards:
            raise InputError("there are no vectors to index", expected="one shard of float16 vectors or more")
        for number, shard in enumerate(self._shards):
            if shard.dtype != np.float16 or shard.ndim != 2:
                raise InputError(
                    f"shard {number} of the vectors is {shard.dtype} with shape {list(shard.shape)}",
                    expected="float16 [rows, dimension]",
                )
            if shard.shape[1] != self._shards[0].shape[1]:
                raise InputError(
                    f"shard {number} has vectors of {shard.shape[1]} numbers, the first one of {self.dimension}",
                    causes=("the shards come from different models",),
                )
        self._ends = np.cumsum([len(shard) for shard in self._shards], dtype=np.int64)

    @property
    def rows(self) -> int:
        """All rows."""
        return int(self._ends[-1])

    @property
    def dimension(self) -> int:
        """Numbers of a vector."""
        return int(self._shards[0].shape[1])

    def read(self, ids: NDArray[np.int64]) -> NDArray[np.float16]:
        """Embeddings float16 [n, dimension] of the rows int64 [n], in that order.

        Raises:
            InputError: there is no such row.
        """
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < self.rows:
            raise InputError(f"rows {ids.min()} to {ids.max()} are asked for, of {self.rows:,} vectors")
        found = np.empty((len(ids), self.dimension), np.float16)
        order = np.argsort(ids, kind="stable")  # the disk is read in one direction
        bounds = np.searchsorted(ids[order], self._ends)
        for shard, end, low, high in zip(self._shards, self._ends, (0, *bounds[:-1]), bounds, strict=True):
            places = order[low:high]
            if len(places):
                found[places] = shard[ids[places] - (int(end) - len(shard))]
        return found

    def release(self) -> None:
        """Let go of the mapped files' pages that were read so far; they are read again when they are wanted."""
        for shard in self._shards:
            _release(shard)

    def blocks(self, live: NDArray[np.bool_] | None = None, size: int = BLOCK_ROWS) -> Iterator[Block]:
        """All rows but the removed ones, in order, checked and widened.

        Args:
            live: bool [rows], false for rows to leave out.
            size: rows at once.

        Raises:
            InputError: a row is not normalized or not finite.
        """
        for shard, shard_end in zip(self._shards, self._ends, strict=True):
            start = int(shard_end) - len(shard)
            for low in range(0, len(shard), size):
                part = shard[low : low + size]
                ids = np.arange(start + low, start + low + len(part), dtype=np.int64)
                end = int(ids[-1]) + 1
                if live is not None:
                    part, ids = part[live[ids]], ids[live[ids]]
                vectors = np.ascontiguousarray(part, dtype=np.float32)
                _require_normalized(vectors, ids)
                _release(shard)
                yield Block(ids, vectors, end)


def live_rows(rows: int, removed: Collection[int]) -> NDArray[np.bool_] | None:
    """Which rows are left, bool [rows]; None where all are.

    Raises:
        InputError: a removed row is none of them.
    """
    if not removed:
        return None
    gone = np.fromiter(removed, np.int64, len(removed))
    if gone.min() < 0 or gone.max() >= rows:
        raise InputError(f"rows {gone.min()} to {gone.max()} are to be removed, of {rows:,}")
    live = np.ones(rows, np.bool_)
    live[gone] = False
    return live


def _require_normalized(vectors: NDArray[np.float32], ids: NDArray[np.int64]) -> None:
    """Raise InputError for the first row that is not of length 1; NaN is none either."""
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    wrong = np.flatnonzero(~(np.abs(lengths - 1.0) <= _NORM_SLACK))
    if len(wrong):
        raise InputError(
            f"the vector of row {ids[wrong[0]]} has length {lengths[wrong[0]]:.4g}",
            expected="normalized vectors: their inner product is the cosine",
            causes=("the row was never embedded", "the embeddings were not normalized"),
            next_step="give such rows as removed, or embed again",
        )


def _release(shard: NDArray[np.float16]) -> None:
    """Let go of a mapped file's pages, which otherwise count as this process's memory till the end."""
    mapped: Any = getattr(shard, "_mmap", None)
    if isinstance(mapped, mmap.mmap) and getattr(shard, "mode", "") == "r":
        mapped.madvise(mmap.MADV_DONTNEED)
