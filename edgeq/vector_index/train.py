"""Training: a sample taken evenly over the catalog, kept in float16, shows where the lists' centres go."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.vector_index.centres import place_centres
from edgeq.vector_index.kinds import IVF_KINDS, SECOND_POINTS, IndexKind, training_points
from edgeq.vector_index.library import matrix_products
from edgeq.vector_index.vectors import Shards

__all__ = ["even_sample", "train_index"]

_ROUNDS: Final = 10


def train_index(index: Any, kind: IndexKind, vectors: Shards, live: NDArray[np.bool_] | None, *, seed: int) -> int:
    """Train an empty faiss index.

    Args:
        index: from `faiss.index_factory`.
        kind: of the index.
        vectors: all of the catalog.
        live: bool [rows], false for removed rows; None where there are none.
        seed: of the sample and of k-means.

    Returns:
        How many vectors it was trained on.

    Raises:
        InputError: as `training_points`.
    """
    rows = vectors.rows if live is None else int(live.sum())
    points = training_points(kind, rows)
    if not points:
        return 0
    sample = vectors.read(even_sample(vectors.rows, live, points, seed))
    vectors.release()
    if kind == "ivf-pq":
        index.pq.cp.niter, index.pq.cp.seed = _ROUNDS, seed
        index.do_polysemous_training = False  # minutes, for a search by Hamming distance that nobody makes
    second = _spread(np.random.default_rng((seed, 1)), points, min(points, SECOND_POINTS))
    if kind in IVF_KINDS:
        index.quantizer.add(place_centres(sample, index.nlist, seed))
    with matrix_products():
        index.train(np.ascontiguousarray(sample[second], dtype=np.float32))
    return points


def even_sample(rows: int, live: NDArray[np.bool_] | None, count: int, seed: int) -> NDArray[np.int64]:
    """Row numbers int64 [count], ascending: one drawn from each of `count` equal stretches of the rows that are left.

    Args:
        rows: of the catalog.
        live: bool [rows], false for removed rows; None where there are none.
        count: at most as many as are left.
        seed: of the drawing.
    """
    left = None if live is None else np.flatnonzero(live)
    places = _spread(np.random.default_rng(seed), rows if left is None else len(left), count)
    return places if left is None else left[places].astype(np.int64)


def _spread(random: np.random.Generator, total: int, count: int) -> NDArray[np.int64]:
    """Places int64 [count] below `total`, ascending, no two alike: stretches are one place long or longer."""
    edges = (np.arange(count + 1, dtype=np.int64) * total) // count
    found: NDArray[np.int64] = edges[:-1] + (random.random(count) * np.diff(edges)).astype(np.int64)
    return found
