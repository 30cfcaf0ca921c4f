"""Centres placed region by region, beside k-means over all points at once; and an index that was built with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from clustered_vectors import clustered
from numpy.typing import NDArray

from edgeq.vector_index import centres, fill, kinds
from edgeq.vector_index.build import build_index
from edgeq.vector_index.centres import RegionFinder, place_centres, regions
from edgeq.vector_index.search import VectorIndex

POINTS = clustered(20_000, 32, seed=5)
WIDE = POINTS.astype(np.float32)
COUNT = 256


@pytest.fixture
def two_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (centres, fill, kinds):
        monkeypatch.setattr(module, "TWO_LEVELS_FROM", 64)


def closeness(placed: NDArray[np.float32]) -> float:
    """Mean cosine of a point to its nearest centre."""
    return float((WIDE @ placed.T).max(axis=1).mean())


@pytest.mark.parametrize(("count", "expected"), [(16_384, 128), (8192, 64), (4096, 64), (64, 8), (1, 1)])
def test_regions(count: int, expected: int) -> None:
    assert regions(count) == expected


def test_centres_by_region_are_nearly_as_near_as_those_of_all_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """A centre drawn from the points, which is where k-means begins, is far less near."""
    whole = place_centres(POINTS, COUNT, seed=0)
    monkeypatch.setattr(centres, "TWO_LEVELS_FROM", 64)
    parted = place_centres(POINTS, COUNT, seed=0)
    assert parted.shape == whole.shape == (COUNT, 32)
    assert np.abs(np.linalg.norm(parted, axis=1) - 1).max() < 1e-5
    drawn = closeness(WIDE[:: len(WIDE) // COUNT][:COUNT])
    assert closeness(parted) > 0.98 * closeness(whole)
    assert closeness(parted) - drawn > 0.8 * (closeness(whole) - drawn)


@pytest.mark.usefixtures("two_levels")
def test_centres_are_the_same_again() -> None:
    assert (place_centres(POINTS, COUNT, seed=1) == place_centres(POINTS, COUNT, seed=1)).all()


@pytest.mark.usefixtures("two_levels")
def test_points_that_are_all_the_same() -> None:
    """One region gets all centres, and no more points than are allowed."""
    same = np.repeat(POINTS[:1], 5000, axis=0)
    placed = place_centres(same, 64, seed=0)
    assert placed.shape == (64, 32)
    assert np.isfinite(placed).all()


@pytest.mark.usefixtures("two_levels")
def test_the_finder_finds_what_is_nearest() -> None:
    """It looks into 8 regions of 16."""
    placed = place_centres(POINTS, COUNT, seed=0)
    found = RegionFinder(placed, seed=0).nearest(WIDE)
    scores = WIDE @ placed.T
    assert (found == scores.argmax(axis=1)).mean() > 0.95
    assert RegionFinder(placed, seed=0).nearest(WIDE[:0]).shape == (0,)


@pytest.mark.usefixtures("two_levels")
def test_an_index_of_regions_finds_its_rows(tmp_path: Path) -> None:
    """Every row is in a list, and nearly always in one that its own vector leads to."""
    record = build_index([POINTS], len(POINTS), 32, tmp_path, kind="ivf-sq8", memory_bytes=10**9, recall_queries=200)
    assert record.factory == "IVF512,SQ8"
    assert record.recall >= 0.98
    index = VectorIndex.open(tmp_path)
    assert (np.sort(index.search(WIDE[:1], len(POINTS), nprobe=512)[0][0]) == np.arange(len(POINTS))).all()
    own = index.search(WIDE[:500], 1, nprobe=4)[0][:, 0]
    assert (own == np.arange(500)).mean() > 0.97
