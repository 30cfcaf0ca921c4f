"""Normalized float16 vectors in clusters, drawn from a seed, and their exact neighbours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def clustered(rows: int, dimension: int = 64, seed: int = 0) -> NDArray[np.float16]:
    """Vectors float16 [rows, dimension] on the sphere, 100 to a cluster."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((max(rows // 100, 1), dimension))
    found = centres[random.integers(0, len(centres), rows)] + 0.7 * random.standard_normal((rows, dimension))
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found.astype(np.float16)


def nearest(
    vectors: NDArray[np.float16], queries: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """The nearest rows int64 [queries, k] in double precision, of equal ones the first."""
    scores = queries.astype(np.float64) @ vectors.astype(np.float64).T
    if allowed is not None:
        scores[:, ~allowed] = -np.inf
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def share(found: NDArray[np.int64], wanted: NDArray[np.int64]) -> float:
    """The share of `wanted` that was found, both [queries, k]."""
    return sum(len(set(ours) & set(theirs)) for ours, theirs in zip(found, wanted, strict=True)) / wanted.size
