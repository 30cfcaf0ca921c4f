"""Centres of lists in two levels: many centres are placed, and the nearest one is found, without comparing with all.

K-means over n points and k centres compares every point with every centre in every round; n grows with k, so that the
work grows with its square. Here the points are parted into about sqrt(k) regions first, and each region gets its share
of the centres (`two_level_clustering` of faiss's contrib does the same). A point at the rim of a region may have a
nearer centre beyond it, which is why the finder looks into several regions, and why the centres are settled once more
over all points at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeq.vector_index.library import faiss, matrix_products, use_threads

__all__ = ["TWO_LEVELS_FROM", "RegionFinder", "place_centres", "regions"]

TWO_LEVELS_FROM: Final = 8192
"""Fewer centres are placed, and found, by comparing with all of them."""

_ROUNDS: Final = 10
_SETTLING: Final = 2
_REGION_POINTS: Final = 256
_LARGEST_REGION: Final = 8
"""A region's centres are placed by so many times as many points as a region has on average, at the most."""

_LOOKED_INTO: Final = 8
_BLOCK: Final = 16_384


def regions(centres: int) -> int:
    """How many regions the centres are parted into: the power of two nearest to their square root from below."""
    return 1 << ((centres.bit_length() - 1) // 2)


def place_centres(sample: NDArray[np.float16], count: int, seed: int) -> NDArray[np.float32]:
    """Centres of the points on the sphere.

    Args:
        sample: normalized points, float16 [n, dimension], n >= count.
        count: of centres.
        seed: of k-means.

    Returns:
        float32 [count, dimension], each of length 1.
    """
    with matrix_products():
        if count < TWO_LEVELS_FROM:
            return _k_means(sample, count, seed)
        centres = _by_region(sample, count, seed)
    for _ in range(_SETTLING):
        centres = _settled(sample, centres, seed)
    return centres


class RegionFinder:
    """Finds the nearest of many centres by comparing with those of the nearest regions alone.

    Args:
        centres: of length one, float32 [n, dimension].
        seed: of the regions' own centres.
    """

    def __init__(self, centres: NDArray[np.float32], seed: int) -> None:
        with matrix_products():
            self._regions = _k_means(centres.astype(np.float16), regions(len(centres)), seed)
            where = _nearest(centres, self._regions, 1)[1][:, 0]
        self._order = np.argsort(where, kind="stable")
        self._sorted = centres[self._order]
        self._ends = np.cumsum(np.bincount(where, minlength=len(self._regions)))
        # Products with one region are too small to be divided: each thread takes some of the vectors instead.
        self._threads = int(faiss().omp_get_max_threads())
        self._pool = ThreadPoolExecutor(self._threads, initializer=use_threads, initargs=(1,))

    def nearest(self, vectors: NDArray[np.float32]) -> NDArray[np.int64]:
        """For each vector, float32 [n, dimension], the number of the nearest centre that is found, int64 [n]."""
        with matrix_products():
            return np.concatenate(list(self._pool.map(self._of_some, np.array_split(vectors, self._threads))))

    def _of_some(self, vectors: NDArray[np.float32]) -> NDArray[np.int64]:
        if not len(vectors):
            return np.empty(0, np.int64)
        asked = _nearest(vectors, self._regions, min(_LOOKED_INTO, len(self._regions)))[1]
        best = np.full(len(vectors), -np.inf, np.float32)
        found = np.zeros(len(vectors), np.int64)
        for region, end in enumerate(self._ends.tolist()):
            start = int(self._ends[region - 1]) if region else 0
            rows = np.flatnonzero((asked == region).any(axis=1))
            if not len(rows) or start == end:
                continue
            scores, places = _nearest(vectors[rows], self._sorted[start:end], 1)
            better = scores[:, 0] > best[rows]
            best[rows[better]] = scores[better, 0]
            found[rows[better]] = self._order[start + places[better, 0]]
        return found


def _nearest(
    vectors: NDArray[np.float32], centres: NDArray[np.float32], count: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Inner products and numbers of the nearest centres, compared with all: both [n, count]."""
    scores, numbers = faiss().knn(vectors, centres, count, faiss().METRIC_INNER_PRODUCT)
    return scores, numbers


def _k_means(points: NDArray[np.float16], count: int, seed: int) -> NDArray[np.float32]:
    """K-means on the sphere over float16 [n, dimension], which faiss widens piece by piece."""
    library = faiss()
    dimension = points.shape[1]
    clustering = library.Clustering(dimension, count)
    clustering.niter, clustering.seed, clustering.spherical = _ROUNDS, seed, True
    clustering.max_points_per_centroid, clustering.min_points_per_centroid = max(len(points) // count + 1, 1), 1
    codec = library.IndexScalarQuantizer(dimension, library.ScalarQuantizer.QT_fp16)
    found = library.IndexFlatIP(dimension)
    clustering.train_encoded(np.ascontiguousarray(points).view(np.uint8), codec, found)
    placed: NDArray[np.float32] = library.vector_to_array(clustering.centroids).reshape(count, dimension)
    return placed


def _by_region(sample: NDArray[np.float16], count: int, seed: int) -> NDArray[np.float32]:
    """Each region's share of the centres, placed by its own points, float32 [count, dimension]."""
    parts = regions(count)
    step = max(len(sample) // (parts * _REGION_POINTS), 1)
    middles = _k_means(sample[::step], parts, seed)
    where = np.concatenate([_nearest(block, middles, 1)[1][:, 0] for block in _widened(sample)])
    ends = np.cumsum(np.bincount(where, minlength=parts))
    shares = np.diff(ends * count // len(sample), prepend=0)
    most = _LARGEST_REGION * len(sample) // parts
    placed = []
    for region, share in enumerate(shares.tolist()):
        if not share:
            continue
        members = np.flatnonzero(where == region)
        members = members[:: max(len(members) // max(most, share), 1)]
        placed.append(_k_means(sample[members], share, seed))
    return np.concatenate(placed)


def _settled(sample: NDArray[np.float16], centres: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Each centre moved to the mean direction of the points it is nearest to; one that has none stays."""
    finder = RegionFinder(centres, seed)
    sums = np.zeros_like(centres)
    for block in _widened(sample):
        where = finder.nearest(block)
        order = np.argsort(where, kind="stable")
        used, starts = np.unique(where[order], return_index=True)
        sums[used] += np.add.reduceat(block[order], starts, axis=0)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    moved: NDArray[np.float32] = np.where(lengths > 0, sums / np.maximum(lengths, 1e-12), centres)
    return moved


def _widened(sample: NDArray[np.float16]) -> Iterator[NDArray[np.float32]]:
    """Blocks of the points as float32 [up to 16,384, dimension]."""
    for start in range(0, len(sample), _BLOCK):
        yield sample[start : start + _BLOCK].astype(np.float32)
