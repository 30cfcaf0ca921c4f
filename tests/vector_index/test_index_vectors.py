"""Shards read in blocks and by row, and what is refused of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from clustered_vectors import clustered

from edgeq.errors import InputError
from edgeq.vector_index.train import even_sample
from edgeq.vector_index.vectors import Shards, live_rows

VECTORS = clustered(1000, 16)


def test_rows_in_any_order_and_twice() -> None:
    shards = Shards([VECTORS[:300], VECTORS[300:300], VECTORS[300:]])
    ids = np.array([999, 0, 299, 300, 0, 301])
    assert (shards.read(ids) == VECTORS[ids]).all()
    assert shards.read(ids[:0]).shape == (0, 16)
    with pytest.raises(InputError, match="0 to 1000 are asked for"):
        shards.read(np.array([1000, 0]))
    with pytest.raises(InputError, match="-1 to -1"):
        shards.read(np.array([-1]))


def test_blocks_are_all_rows_but_the_removed(tmp_path: Path) -> None:
    np.save(tmp_path / "second.npy", VECTORS[450:])
    shards = Shards([VECTORS[:450], np.load(tmp_path / "second.npy", mmap_mode="r")])
    removed = {0, 449, 450, 999}
    blocks = list(shards.blocks(live_rows(1000, removed), 200))
    assert [block.end for block in blocks] == [200, 400, 450, 650, 850, 1000]
    ids = np.concatenate([block.ids for block in blocks])
    assert ids.tolist() == [row for row in range(1000) if row not in removed]
    assert (np.concatenate([block.vectors for block in blocks]) == VECTORS[ids].astype(np.float32)).all()


@pytest.mark.parametrize("wrong", [0.0, 2.0, np.nan, np.inf])
def test_a_row_that_is_not_normalized_is_named(wrong: float) -> None:
    vectors = VECTORS.copy()
    vectors[700] *= np.float16(wrong)
    with pytest.raises(InputError, match="row 700 has length"):
        list(Shards([vectors[:300], vectors[300:]]).blocks())
    assert len(list(Shards([vectors]).blocks(live_rows(1000, {700})))) == 1


def test_what_is_no_shard() -> None:
    with pytest.raises(InputError, match="no vectors"):
        Shards([])
    with pytest.raises(InputError, match="float32"):
        Shards([VECTORS.astype(np.float32)])
    with pytest.raises(InputError, match=r"shape \[16\]"):
        Shards([VECTORS[0]])
    with pytest.raises(InputError, match="shard 1 has vectors of 8 numbers, the first one of 16"):
        Shards([VECTORS, VECTORS[:, :8]])


def test_removed_rows_are_of_the_catalog() -> None:
    assert live_rows(10, ()) is None
    with pytest.raises(InputError, match="rows 3 to 10 are to be removed, of 10"):
        live_rows(10, [3, 10])


def test_a_sample_is_spread_evenly() -> None:
    """One of each ten rows, and of each ten that are left."""
    assert (even_sample(1000, None, 100, 0) // 10 == np.arange(100)).all()
    live = live_rows(1000, range(500))
    assert ((even_sample(1000, live, 50, 0) - 500) // 10 == np.arange(50)).all()
    assert (even_sample(1000, None, 1000, 3) == np.arange(1000)).all()
    assert (even_sample(1000, None, 100, 0) == even_sample(1000, None, 100, 0)).all()
    assert (even_sample(1000, None, 100, 0) != even_sample(1000, None, 100, 1)).any()
