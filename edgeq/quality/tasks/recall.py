"""Where right items stand, and what a drop of recall is worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import EngineError, InputError
from edgeq.quality.estimate import Ratio
from edgeq.quality.tasks.retrieval_figures import Drop

__all__ = ["Found", "Z", "check_right", "compare_hits", "directions", "own_size", "ranks", "recall", "search"]

Z: Final = 1.959964
"""Standard errors to either side, for 95 %."""

_BLOCK: Final = 4_000_000
"""Scores held at a time, 8 bytes each."""

_TIE: Final = 1e-12
"""Cosines nearer than this are equal: a product of matrices rounds equal rows differently."""

Found = tuple[NDArray[np.int64], NDArray[np.int64]]
"""The rank of each query's best right item, and the item that is first."""


def ranks(
    queries: NDArray[np.float32], items: NDArray[np.float32], relevant: Sequence[frozenset[int]]
) -> NDArray[np.int64]:
    """Where each query's best right item stands, by cosine.

    It is the number of wrong items that are as near as it or nearer: a tie counts against, so that embeddings which are
    all alike find nothing. A vector of zeros has a cosine of 0 with everything.

    Args:
        queries: float32 [q, d].
        items: float32 [n, d].
        relevant: for each query the items that are right; one at least.

    Returns:
        int64 [q]; 0 is first.

    Raises:
        InputError: a query has no right item, or one that is not there.
        EngineError: an array holds NaN or infinity, or the two do not fit each other.
    """
    check_right(relevant, len(queries), len(items))
    return search(queries, items, relevant)[0]


def recall(found: NDArray[np.int64], k: int) -> float:
    """recall@k in percent.

    Args:
        found: of `ranks`, int64 [q].
        k: 1 at least.

    Raises:
        InputError: there is no query, or k is below 1.
    """
    if len(found) == 0 or k < 1:
        raise InputError(f"recall@{k} of {len(found)} queries", expected="a query at least, and k of 1 or more")
    return 100.0 * float((found < k).mean())


def compare_hits(
    reference: NDArray[np.bool_], candidate: NDArray[np.bool_], of_queries: NDArray[np.int64] | None = None
) -> Drop:
    """What the candidate loses of the reference's hits, query by query.

    Args:
        reference, candidate: whether each found what is right, bool [q].
        of_queries: the group of each query, int64 [q], from 0 with none left out; None where each is on its own.

    Raises:
        InputError: there is no query, or the arrays are not of one length.
    """
    own = np.arange(len(reference)) if of_queries is None else of_queries
    if len(reference) == 0 or not len(reference) == len(candidate) == len(own):
        lengths = f"{len(reference)}, {len(candidate)} and {len(own)}"
        raise InputError(f"hits of {lengths} queries", expected="the same queries of both, one at least")
    sizes = np.bincount(own).astype(np.float64)
    lost = np.bincount(own, weights=reference.astype(np.float64) - candidate)
    ratio, wide = Ratio(), Ratio()
    for above, below in zip(lost.tolist(), sizes.tolist(), strict=True):
        ratio.add(above, below)
        wide.add(above, below)
    size = own_size(sizes)
    for sign in (1.0, -1.0):
        wide.add(sign * size, size)
    drop, doubt = ratio.estimate().times(100.0), wide.estimate().times(100.0)
    half = Z * (doubt.standard_error or 0.0)
    return Drop(
        value=drop.value,
        standard_error=drop.standard_error,
        low=max(doubt.value - half, -100.0),
        high=min(doubt.value + half, 100.0),
    )


def own_size(sizes: NDArray[np.int64] | NDArray[np.float64]) -> float:
    """The mean over queries of their groups' sizes.

    Args:
        sizes: of each group, int64 or float64 [groups].
    """
    wide = sizes.astype(np.float64)
    return float(np.square(wide).sum() / wide.sum())


def check_right(relevant: Sequence[frozenset[int]], queries: int, items: int, *, what: str = "query") -> None:
    """Raise InputError unless each query has a right item, and each of these is there.

    Args:
        relevant: for each query the items that are right.
        queries: how many there are.
        items: how many there are.
        what: a query is called.
    """
    if len(relevant) != queries:
        raise InputError(f"there are {queries} queries, and what is right for {len(relevant)}")
    for query, right in enumerate(relevant):
        if not right:
            raise InputError(f"nothing is said to be right for {what} {query}", expected="one item at least")
        if min(right) < 0 or max(right) >= items:
            raise InputError(
                f"{sorted(right)[:5]} are said to be right for {what} {query}",
                expected=f"numbers from 0 to {items - 1}",
            )


def directions(values: NDArray[np.float32] | NDArray[np.float64], what: str) -> NDArray[np.float64]:
    """Vectors float64 [n, d] of length 1, or 0 where there is no direction.

    Args:
        values: float32 or float64 [n, d].
        what: they are called.

    Raises:
        EngineError: they have another form, or hold NaN or infinity.
    """
    if values.ndim != 2 or not np.isfinite(values).all():
        raise EngineError(f"{what} are {list(values.shape)}, or hold NaN or infinity", expected="finite vectors [n, d]")
    wide = values.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    found: NDArray[np.float64] = wide / np.where(lengths > 0.0, lengths, 1.0)
    return found


def search(
    queries: NDArray[np.float32],
    items: NDArray[np.float32] | NDArray[np.float64],
    relevant: Sequence[frozenset[int]],
) -> Found:
    """As `ranks`, and which item is first; of several, the first of them.

    Args:
        queries: float32 [q, d].
        items: float32 or float64 [n, d].
        relevant: for each query the items that are right; one at least.

    Raises:
        EngineError: as `ranks`.
    """
    asked, stored = directions(queries, "embeddings of queries"), directions(items, "embeddings of items")
    if asked.shape[1] != stored.shape[1]:
        raise EngineError(
            f"queries have {asked.shape[1]} numbers, items {stored.shape[1]}", expected="embeddings of one length"
        )
    found, first = np.empty(len(asked), np.int64), np.empty(len(asked), np.int64)
    step = max(_BLOCK // max(len(stored), 1), 1)
    for start in range(0, len(asked), step):
        piece = slice(start, start + step)
        scores = asked[piece] @ stored.T
        right = np.zeros(scores.shape, np.bool_)
        for row, places in enumerate(relevant[piece]):
            right[row, list(places)] = True
        best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
        found[piece] = ((scores >= best - _TIE) & ~right).sum(axis=1)
        first[piece] = (scores >= scores.max(axis=1, keepdims=True) - _TIE).argmax(axis=1)
    return found, first
