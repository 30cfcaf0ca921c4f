"""The benchmark of the search index: its vectors, its table, and one whole run on few rows."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import vector_index
from benchmarks.vector_index import Row, draw_shards, main, open_shards, table


def test_vectors_are_normalized_and_the_same_again(tmp_path: Path) -> None:
    for name in ("a", "b"):
        draw_shards(tmp_path / name, 26_000, 16, seed=3)
    (first,), (second,) = open_shards(tmp_path / "a"), open_shards(tmp_path / "b")
    assert first.shape == (26_000, 16)
    assert first.dtype == np.dtype(np.float16)
    assert (first == second).all()
    assert np.abs(np.linalg.norm(first.astype(np.float32), axis=1) - 1).max() < 0.002


def test_shards_are_cut_where_they_are_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_index, "SHARD_ROWS", 1000)
    draw_shards(tmp_path, 2500, 8, seed=0)
    assert [len(shard) for shard in open_shards(tmp_path)] == [1000, 1000, 500]


def test_the_table() -> None:
    row = Row("ivf-pq", "edgeq", 61.4, 120.0, 9.6, 333.0, 4 * 10**8, 5 * 10**8, 81 * 10**6, 16, 8, 0.98765, 1234.5)
    plain = Row("flat", "faiss", 0.0, 3.0, 0.0, 5.5, 10**9, 0, 10**9, 0, 0, 1.0, 20.0)
    assert table([row, plain]).splitlines()[2:] == [
        "| ivf-pq | edgeq | 61 | 120 | 333 | 10 | 0.40 | 0.50 | 0.081 | 16 | 8 | 0.9877 | 1,234 |",
        "| flat | faiss | 0 | 3 | 6 |  | 1.00 |  | 1.000 |  |  | 1.0000 | 20 |",
    ]


def test_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--rows", "3000", "--dimension", "16", "--kinds", "flat", "ivf-sq8", "--work", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["vector_index", *flags, "--json", str(tmp_path / "rows.json")])
    assert main() == 0
    rows = [Row(**each) for each in json.loads((tmp_path / "rows.json").read_text())]
    assert [(row.kind, row.side) for row in rows] == [
        ("flat", "edgeq"),
        ("flat", "faiss"),
        ("ivf-sq8", "edgeq"),
        ("ivf-sq8", "faiss"),
    ]
    assert [row.recall for row in rows[:2]] == [1.0, 1.0]
    assert all(row.recall > 0.8 and row.speed > 0 and row.peak < 200_000_000 for row in rows)
    assert capsys.readouterr().out.count("| ivf-sq8 |") == 2
