"""Recall: the truth beside numpy, what counts as found, and how settings are raised."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from clustered_vectors import clustered, nearest

from edgeq.errors import InputError
from edgeq.vector_index.build import build_index
from edgeq.vector_index.kinds import IndexKind
from edgeq.vector_index.recall import Truth, exact_neighbours, measure_recall, recall_at
from edgeq.vector_index.search import VectorIndex
from edgeq.vector_index.vectors import Shards, live_rows

ROWS = 12_000
VECTORS = clustered(ROWS)
SHARDS = Shards([VECTORS[:5000], VECTORS[5000:]])


def opened(directory: Path, kind: IndexKind) -> VectorIndex:
    build_index([VECTORS], ROWS, 64, directory, kind=kind, memory_bytes=10**9, recall_queries=0)
    return VectorIndex.open(directory, SHARDS)


def test_the_truth_leaves_out_the_row_itself_and_removed_ones() -> None:
    live = live_rows(ROWS, range(0, ROWS, 3))
    truth = exact_neighbours(SHARDS, queries=50, k=10, seed=4, live=live)
    assert truth.rows.shape == (50,)
    assert (truth.rows % 3 != 0).all()
    wanted = nearest(VECTORS, truth.queries, 11, live)
    assert (wanted[:, 0] == truth.rows).all()
    assert (truth.ids == wanted[:, 1:]).all()


def test_what_counts_as_found(tmp_path: Path) -> None:
    """Of 4 x 2 neighbours an index without two of these rows finds six."""
    index = opened(tmp_path, "flat")
    truth = exact_neighbours(SHARDS, queries=4, k=2)
    assert recall_at(index, SHARDS, truth, nprobe=0, refine=0) == 1.0
    gone = {int(truth.ids[0, 0]), int(truth.ids[3, 1])}
    build_index([VECTORS], ROWS, 64, tmp_path, kind="flat", memory_bytes=10**9, removed=gone, recall_queries=0)
    assert recall_at(VectorIndex.open(tmp_path), SHARDS, truth, nprobe=0, refine=0) == 6 / 8


def test_any_copy_will_do(tmp_path: Path) -> None:
    """The truth names copies that the search does not: they are as near."""
    vectors = VECTORS[:1000].copy()
    vectors[100:140] = vectors[100]
    shards = Shards([vectors])
    build_index([vectors], 1000, 64, tmp_path, kind="flat", memory_bytes=10**9, recall_queries=0)
    query = vectors[100:101].astype(np.float32)
    scores = np.full((1, 5), np.float32((query.astype(np.float64) ** 2).sum()))
    truth = Truth(np.array([139]), query, np.arange(134, 139)[None], scores)
    assert recall_at(VectorIndex.open(tmp_path), shards, truth, nprobe=0, refine=0) == 1.0


def test_lists_are_doubled_until_it_suffices(tmp_path: Path) -> None:
    index = opened(tmp_path, "ivf-sq8")
    points = measure_recall(index, SHARDS, queries=200, target=1.0)
    assert [point.nprobe for point in points] == [8, 16, 32, 64, 128, 256]  # 256 lists, and 8 bits are not enough
    assert [point.recall for point in points] == sorted(point.recall for point in points)
    assert len(measure_recall(index, SHARDS, queries=200, target=points[1].recall)) <= 2
    assert len(measure_recall(index, SHARDS, queries=200, target=0.5)) == 1


def test_candidates_are_doubled_where_lists_do_not_help(tmp_path: Path) -> None:
    points = measure_recall(opened(tmp_path, "ivf-pq"), SHARDS, queries=200, target=1.1)
    assert (points[0].nprobe, points[0].refine) == (8, 8)
    assert (points[-1].nprobe, points[-1].refine) == (256, 128)
    for before, after in pairwise(points):
        assert (after.nprobe, after.refine) in ((2 * before.nprobe, before.refine), (before.nprobe, 2 * before.refine))


@pytest.mark.parametrize("kind", ["flat", "sq8"])
def test_one_measurement_where_there_is_nothing_to_raise(tmp_path: Path, kind: IndexKind) -> None:
    (point,) = measure_recall(opened(tmp_path, kind), SHARDS, queries=100, target=1.1)
    assert (point.nprobe, point.refine) == (0, 0)


def test_one_vector_has_no_neighbours() -> None:
    with pytest.raises(InputError, match="cannot be measured on 1 vectors"):
        exact_neighbours(Shards([VECTORS[:1]]))
