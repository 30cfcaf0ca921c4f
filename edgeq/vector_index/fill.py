"""Vectors go into a trained index block by block, into room that was made for exactly so many.

faiss's arrays double when they are full, so that an index that just fits would not while it grows. All of them are
therefore made large and emptied once, which keeps their memory. For lists it has to be known how long each will be:
the vectors are read twice, first to find the list of each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.vector_index.centres import TWO_LEVELS_FROM, RegionFinder
from edgeq.vector_index.kinds import IVF_KINDS, IndexKind
from edgeq.vector_index.library import faiss, matrix_products
from edgeq.vector_index.vectors import Shards

__all__ = ["Progress", "fill_index"]

Progress = Callable[[str, int, int], None]
"""Called with the stage, what is done, and what is to be done."""

_LINKS_A_ROW: Final = 65.1
"""Of an HNSW with 32 links: 64 at the bottom, 1.03 above."""


def fill_index(
    index: Any, kind: IndexKind, vectors: Shards, live: NDArray[np.bool_] | None, progress: Progress, *, seed: int
) -> None:
    """Add all rows that are left, under their row numbers.

    Args:
        index: trained.
        kind: of the index.
        vectors: all of the catalog.
        live: bool [rows], false for removed rows; None where there are none.
        progress: called after each block.
        seed: of the regions in which a row's list is looked for.

    Raises:
        InputError: a row is not normalized or not finite.
    """
    rows = vectors.rows if live is None else int(live.sum())
    if kind in IVF_KINDS:
        _fill_lists(index, vectors, live, rows, progress, seed)
        return
    _reserve(index, rows)
    for block in vectors.blocks(live):
        index.add_with_ids(block.vectors, block.ids)
        progress("add", block.end, vectors.rows)


def _fill_lists(
    index: Any, vectors: Shards, live: NDArray[np.bool_] | None, rows: int, progress: Progress, seed: int
) -> None:
    """Find the list of each row, make room in all lists, and add."""
    places = np.empty(rows, np.int64)
    find = _find_of(index, seed)
    done = 0
    for block in vectors.blocks(live):
        nearest = find(block.vectors) if len(block.ids) else block.ids
        places[done : done + len(nearest)] = nearest
        done += len(nearest)
        progress("assign", block.end, vectors.rows)
    for number, length in enumerate(np.bincount(places, minlength=index.nlist).tolist()):
        index.invlists.resize(number, length)
        index.invlists.resize(number, 0)
    pointer = faiss().swig_ptr
    done = 0
    for block in vectors.blocks(live):
        count = len(block.ids)
        part = places[done : done + count]
        if count:
            index.add_core(count, pointer(block.vectors), pointer(block.ids), pointer(part))
        done += count
        progress("add", block.end, vectors.rows)


def _find_of(index: Any, seed: int) -> Callable[[NDArray[np.float32]], NDArray[np.int64]]:
    """What finds the list of each vector, float32 [n, dimension] to int64 [n]."""
    if index.nlist >= TWO_LEVELS_FROM:
        return RegionFinder(index.quantizer.reconstruct_n(0, index.nlist), seed).nearest

    def exact(vectors: NDArray[np.float32]) -> NDArray[np.int64]:
        with matrix_products():
            found: NDArray[np.int64] = index.quantizer.search(vectors, 1)[1][:, 0]
        return found

    return exact


def _reserve(index: Any, rows: int) -> None:
    """Make room for so many rows in an index with row numbers of its own."""
    inner = faiss().downcast_index(index.index)
    store = inner
    if hasattr(inner, "hnsw"):
        store = faiss().downcast_index(inner.storage)
        _grow(inner.hnsw.neighbors, round(rows * _LINKS_A_ROW))
    _grow(store.codes, rows * store.code_size)
    _grow(index.id_map, rows)


def _grow(array: Any, length: int) -> None:
    """Make an array so long, and empty it."""
    array.resize(length)
    array.resize(0)
