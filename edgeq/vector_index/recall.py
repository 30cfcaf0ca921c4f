"""Recall: how many of the truly nearest are found, and the smallest setting that finds enough of them.

The queries are rows of the catalog itself, each of which must find its neighbours, not itself. The truth is a
comparison with every vector, block by block. Found counts what is as near as the k-th nearest: of copies of one image
any will do.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import InputError
from edgeq.vector_index.kinds import IVF_KINDS
from edgeq.vector_index.library import faiss, matrix_products, use_threads
from edgeq.vector_index.record import RecallPoint
from edgeq.vector_index.search import NOTHING, VectorIndex
from edgeq.vector_index.train import even_sample
from edgeq.vector_index.vectors import Shards

__all__ = ["Truth", "exact_neighbours", "find_settings", "measure_recall", "recall_at"]

_FIRST_REFINE: Final = 8
_MOST_REFINE: Final = 128
_FIRST_LISTS: Final = 8
_FIRST_WALK: Final = 32
_MOST_EFFORT: Final = 1024
_SMALL_GAIN: Final = 0.004
_SAME: Final = 1e-6
"""Scores that differ by less are the same, summed in another order."""


class Truth:
    """What a search must find.

    Args:
        rows: of the catalog that are asked for, int64 [queries].
        queries: their vectors, float32 [queries, dimension].
        ids: the nearest other rows, int64 [queries, k], nearest first.
        scores: their inner products, float32 [queries, k].
    """

    def __init__(
        self,
        rows: NDArray[np.int64],
        queries: NDArray[np.float32],
        ids: NDArray[np.int64],
        scores: NDArray[np.float32],
    ) -> None:
        self.rows, self.queries, self.ids, self.scores = rows, queries, ids, scores

    @property
    def k(self) -> int:
        """Neighbours of each."""
        return int(self.ids.shape[1])


def measure_recall(
    index: VectorIndex,
    vectors: Shards,
    *,
    queries: int = 1000,
    k: int = 10,
    seed: int = 0,
    target: float = 0.98,
    live: NDArray[np.bool_] | None = None,
    threads: int = 1,
) -> tuple[RecallPoint, ...]:
    """Raise an index's settings until it finds enough.

    Args:
        index: to be measured; one of kind ivf-pq was opened with the vectors.
        vectors: all of the catalog.
        queries: rows that are asked for, fewer where there are not so many.
        k: neighbours of each.
        seed: chooses the rows.
        target: recall that is enough.
        live: bool [rows], false for rows that are not in the index; None where all are.
        threads: for the exact comparison.

    Returns:
        Every setting that was tried, the last one the first that reached the target, or the largest.

    Raises:
        InputError: there are fewer than two rows, or a vector is not normalized.
    """
    truth = exact_neighbours(vectors, queries=queries, k=k, seed=seed, live=live, threads=threads)
    return find_settings(index, vectors, truth, target)


def exact_neighbours(
    vectors: Shards,
    *,
    queries: int = 1000,
    k: int = 10,
    seed: int = 0,
    live: NDArray[np.bool_] | None = None,
    threads: int = 1,
) -> Truth:
    """The nearest rows to some rows, by comparison with every vector; parameters as `measure_recall`.

    Raises:
        InputError: there are fewer than two rows, or a vector is not normalized.
    """
    left = vectors.rows if live is None else int(live.sum())
    if left < 2:
        raise InputError(f"recall cannot be measured on {left} vectors", expected="2 or more")
    k = min(k, left - 1)
    rows = even_sample(vectors.rows, live, min(queries, left), seed)
    asked = vectors.read(rows).astype(np.float32)
    best = np.full((len(rows), k), -np.inf, np.float32)
    ids = np.full((len(rows), k), NOTHING, np.int64)
    use_threads(threads)
    for block in vectors.blocks(live):
        if not len(block.ids):
            continue
        with matrix_products():
            near, places = faiss().knn(asked, block.vectors, min(k + 1, len(block.ids)), faiss().METRIC_INNER_PRODUCT)
        found = block.ids[places]
        near = np.where(found == rows[:, None], np.float32(-np.inf), near)
        ids, best = _merged(np.hstack([ids, found]), np.hstack([best, near]), k)
    return Truth(rows, asked, ids, best)


def find_settings(index: VectorIndex, vectors: Shards, truth: Truth, target: float) -> tuple[RecallPoint, ...]:
    """As `measure_recall`, with the truth known.

    What was raised last is raised again while that helps; when it no longer does, the other of `nprobe` and `refine`.

    Args:
        index: to be measured.
        vectors: all of the catalog.
        truth: from `exact_neighbours`.
        target: recall that is enough.

    Returns:
        Every setting that was tried; the last one is the choice.
    """
    most = [_most_effort(index), _MOST_REFINE if index.kind == "ivf-pq" else 0]
    first = _FIRST_WALK if index.kind == "hnsw" else _FIRST_LISTS
    now = [min(first, most[0]), min(_FIRST_REFINE, most[1])]
    points = [_point(index, vectors, truth, now)]
    which = 0
    while points[-1].recall < target and now != most:
        which = which if now[which] < most[which] else 1 - which
        now[which] = min(2 * now[which], most[which])
        points.append(_point(index, vectors, truth, now))
        if points[-1].recall - points[-2].recall < _SMALL_GAIN:
            which = 1 - which
    return tuple(points)


def recall_at(index: VectorIndex, vectors: Shards, truth: Truth, *, nprobe: int, refine: int) -> float:
    """Share of the k nearest that are found, mean over all queries.

    Args:
        index: to be measured.
        vectors: all of the catalog.
        truth: from `exact_neighbours`.
        nprobe: as `VectorIndex.search` takes it; 0 for kinds that have none.
        refine: as `VectorIndex.search` takes it.
    """
    ids, _ = index.search(truth.queries, truth.k + 1, nprobe=nprobe or None, refine=refine)
    hits = 0
    for query, found in enumerate(ids):
        others = found[(found != truth.rows[query]) & (found != NOTHING)][: truth.k]
        scores = vectors.read(others).astype(np.float32) @ truth.queries[query]
        hits += int((scores >= truth.scores[query, -1] - _SAME).sum())
    return hits / truth.ids.size


def _point(index: VectorIndex, vectors: Shards, truth: Truth, setting: list[int]) -> RecallPoint:
    """The recall at a setting of `nprobe` and `refine`."""
    nprobe, refine = setting
    recall = recall_at(index, vectors, truth, nprobe=nprobe, refine=refine)
    return RecallPoint(nprobe=nprobe, refine=refine, recall=recall)


def _most_effort(index: VectorIndex) -> int:
    """The largest `nprobe` that is tried; 0 for kinds that have none."""
    if index.kind in IVF_KINDS:
        return min(index.lists, _MOST_EFFORT)
    return _MOST_EFFORT if index.kind == "hnsw" else 0


def _merged(
    ids: NDArray[np.int64], scores: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The best k of each query, int64 and float32 [queries, k], by falling score, then by rising row number."""
    order = np.lexsort((ids, -scores), axis=-1)[:, :k]
    return np.take_along_axis(ids, order, axis=-1), np.take_along_axis(scores, order, axis=-1)
