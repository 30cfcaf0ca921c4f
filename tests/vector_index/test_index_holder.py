"""An index that is replaced while it is searched."""

from __future__ import annotations

from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest
from clustered_vectors import clustered

from edgeq.errors import ArtifactError
from edgeq.vector_index.build import build_index
from edgeq.vector_index.holder import IndexHolder
from edgeq.vector_index.search import VectorIndex

VECTORS = clustered(3000)
QUERY = VECTORS[5:6].astype(np.float32)


def build(directory: Path, removed: frozenset[int] = frozenset()) -> None:
    build_index([VECTORS], 3000, 64, directory, kind="ivf-sq8", memory_bytes=10**9, removed=removed, recall_queries=20)


def first(index: VectorIndex) -> int:
    return int(index.search(QUERY, 1)[0][0, 0])


def test_a_newer_index_is_served_and_the_old_one_goes_on(tmp_path: Path) -> None:
    build(tmp_path)
    holder = IndexHolder(tmp_path)
    old = holder.current
    assert holder.reload() is False
    assert holder.current is old
    build(tmp_path, frozenset({5}))
    assert first(holder.current) == 5
    assert holder.reload() is True
    assert first(holder.current) != 5
    assert first(old) == 5
    assert holder.reload() is False


def test_a_damaged_newer_index_is_not_served(tmp_path: Path) -> None:
    build(tmp_path)
    holder = IndexHolder(tmp_path)
    build(tmp_path, frozenset({5}))
    data = (tmp_path / "index.faiss").read_bytes()
    (tmp_path / "damaged").write_bytes(data[:-1])
    (tmp_path / "damaged").replace(tmp_path / "index.faiss")
    for _ in range(2):
        with pytest.raises(ArtifactError):
            holder.reload()
        assert first(holder.current) == 5
    (tmp_path / "whole").write_bytes(data)
    (tmp_path / "whole").replace(tmp_path / "index.faiss")
    assert holder.reload() is True
    assert first(holder.current) != 5


def test_searches_go_on_through_swaps(tmp_path: Path) -> None:
    build(tmp_path)
    holder = IndexHolder(tmp_path)
    ended, found, failures = Event(), set[int](), list[Exception]()

    def search() -> None:
        while not ended.is_set():
            try:
                found.add(first(holder.current))
            except Exception as error:
                failures.append(error)

    threads = [Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for removed in (frozenset({5}), frozenset[int](), frozenset({5})):
        build(tmp_path, removed)
        assert holder.reload()
    ended.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert 5 in found
    assert len(found) <= 2


def test_nothing_to_hold(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"index\.json cannot be read"):
        IndexHolder(tmp_path)


def test_opened_as_told(tmp_path: Path) -> None:
    build(tmp_path)
    opened: list[Path] = []

    def open_index(directory: Path) -> VectorIndex:
        opened.append(directory)
        return VectorIndex.open(directory, threads=2)

    holder = IndexHolder(tmp_path, open_index)
    build(tmp_path, frozenset({5}))
    holder.reload()
    assert opened == [tmp_path, tmp_path]
