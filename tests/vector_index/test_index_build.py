"""Building: the same file again, removed rows, bounds, and what a stopped build leaves."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from clustered_vectors import clustered, nearest

from edgeq.errors import ArtifactError, InputError, OutputError
from edgeq.extras import install_command
from edgeq.files import sha256_file
from edgeq.vector_index import library
from edgeq.vector_index.build import build_index
from edgeq.vector_index.kinds import KINDS, IndexKind, index_bytes
from edgeq.vector_index.record import IndexRecord
from edgeq.vector_index.search import VectorIndex
from edgeq.vector_index.vectors import Shards

ROWS, DIMENSION = 12_000, 64
VECTORS = clustered(ROWS)
REMOVED = frozenset(range(0, ROWS, 7)) | {ROWS - 1}


def build(
    directory: Path, kind: IndexKind = "flat", *, removed: frozenset[int] = frozenset(), seed: int = 0
) -> IndexRecord:
    shards = [VECTORS[:5000], VECTORS[5000:]]
    return build_index(
        shards,
        ROWS,
        DIMENSION,
        directory,
        kind=kind,
        memory_bytes=10**9,
        removed=removed,
        seed=seed,
        recall_queries=50,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_file_again(tmp_path: Path, kind: IndexKind) -> None:
    first, second = build(tmp_path / "a", kind), build(tmp_path / "b", kind)
    assert first == second
    assert first.sha256 == sha256_file(tmp_path / "b" / "index.faiss")


def test_another_seed_another_file(tmp_path: Path) -> None:
    assert build(tmp_path / "a", "ivf-sq8").sha256 != build(tmp_path / "b", "ivf-sq8", seed=1).sha256


@pytest.mark.parametrize("kind", KINDS)
def test_removed_rows_never_come_back(tmp_path: Path, kind: IndexKind) -> None:
    """Asked for by their own vectors, looked for everywhere, and allowed by a filter."""
    record = build(tmp_path, kind, removed=REMOVED)
    assert (record.rows, record.removed, record.indexed) == (ROWS, len(REMOVED), ROWS - len(REMOVED))
    index = VectorIndex.open(tmp_path, Shards([VECTORS]))
    gone = np.array(sorted(REMOVED))[:100]
    for allowed in (None, np.ones(ROWS, np.bool_)):
        ids, _ = index.search(VECTORS[gone].astype(np.float32), 20, nprobe=1000, allowed=allowed)
        assert not REMOVED & set(ids.ravel().tolist())
    ids, scores = index.search(VECTORS[gone[:2]].astype(np.float32), 5, allowed=gone)
    assert (ids == -1).all()
    assert (scores == -np.inf).all()


def test_ids_are_the_catalogs_row_numbers(tmp_path: Path) -> None:
    build(tmp_path, "flat", removed=REMOVED)
    allowed = np.ones(ROWS, np.bool_)
    allowed[sorted(REMOVED)] = False
    queries = VECTORS[::100].astype(np.float32)
    assert (VectorIndex.open(tmp_path).search(queries, 10)[0] == nearest(VECTORS, queries, 10, allowed)).all()


def test_progress_and_record(tmp_path: Path) -> None:
    said: list[tuple[str, int, int]] = []
    record = build_index(
        [VECTORS],
        ROWS,
        DIMENSION,
        tmp_path,
        kind="ivf-sq8",
        memory_bytes=10**9,
        recall_queries=0,
        progress=lambda *told: said.append(told),
    )
    assert list(dict.fromkeys(stage for stage, _, _ in said)) == ["train", "assign", "add", "recall", "write"]
    assert ("add", ROWS, ROWS) in said
    assert (record.factory, record.training_points) == ("IVF256,SQ8", ROWS)  # 39 x 512 would be 19,968
    assert (record.nprobe, record.recall, record.recall_queries) == (32, 0.0, 0)
    assert IndexRecord.load(tmp_path / "index.json") == record


def test_too_little_memory(tmp_path: Path) -> None:
    need = index_bytes("flat", ROWS, DIMENSION).build
    with pytest.raises(InputError, match="building flat over 12,000 vectors of 64 numbers takes"):
        build_index([VECTORS], ROWS, DIMENSION, tmp_path / "a", kind="flat", memory_bytes=need - 1)
    assert not (tmp_path / "a").exists()
    build_index([VECTORS], ROWS, DIMENSION, tmp_path / "a", kind="flat", memory_bytes=need, recall_queries=10)


@pytest.mark.parametrize(("rows", "dimension"), [(ROWS + 1, DIMENSION), (ROWS, 32)])
def test_vectors_that_are_not_as_told(tmp_path: Path, rows: int, dimension: int) -> None:
    with pytest.raises(InputError, match="the shards hold 12,000 vectors of 64 numbers"):
        build_index([VECTORS], rows, dimension, tmp_path, kind="flat", memory_bytes=10**9)


@pytest.mark.parametrize("kind", ["flat", "sq8", "ivf-sq8", "hnsw"])
@pytest.mark.parametrize("rows", [1, 2, 30])
def test_few_rows(tmp_path: Path, kind: IndexKind, rows: int) -> None:
    record = build_index([VECTORS[:rows]], rows, DIMENSION, tmp_path, kind=kind, memory_bytes=10**9)
    ids, _ = VectorIndex.open(tmp_path).search(VECTORS[:1].astype(np.float32), 5)
    assert sorted(ids[0].tolist())[-min(rows, 5) :] == sorted(
        nearest(VECTORS[:rows], VECTORS[:1].astype(np.float32), 5)[0].tolist()
    )
    assert record.recall_queries == (rows if rows > 1 else 0)


def test_no_row_is_left(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no row is left"):
        build_index([VECTORS[:3]], 3, DIMENSION, tmp_path, kind="flat", memory_bytes=10**9, removed={0, 1, 2})


def test_a_bad_row_leaves_the_former_index(tmp_path: Path) -> None:
    before = build(tmp_path)
    wrong = VECTORS.copy()
    wrong[ROWS - 1] = 0
    with pytest.raises(InputError, match="row 11999 has length 0"):
        build_index([wrong], ROWS, DIMENSION, tmp_path, kind="flat", memory_bytes=10**9)
    assert IndexRecord.load(tmp_path / "index.json") == before
    VectorIndex.open(tmp_path)


@pytest.mark.parametrize("stage", ["train", "add", "recall", "write"])
def test_an_interrupted_build_leaves_nothing(tmp_path: Path, stage: str) -> None:
    def interrupt(at: str, _done: int, _total: int) -> None:
        if at == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index([VECTORS], ROWS, DIMENSION, tmp_path, kind="flat", memory_bytes=10**9, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_former_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = build(tmp_path)

    def full(_self: object, _data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("edgeq.vector_index.build._Hashed._pass_on", full)
        with pytest.raises(OutputError, match="disk is full"):
            build(tmp_path, seed=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.faiss", "index.json"]
    assert IndexRecord.load(tmp_path / "index.json") == before
    VectorIndex.open(tmp_path)


KILLED = """
import os, signal, sys
from pathlib import Path
from clustered_vectors import clustered
from edgeq.vector_index import build

def kill(self, data):
    self._file.write(data[:100])
    self._file.flush()
    os.kill(os.getpid(), signal.SIGKILL)

build._Hashed._pass_on = kill
build.build_index([clustered(500)], 500, 64, Path(sys.argv[1]), kind="flat", memory_bytes=10**9)
"""


def test_a_killed_build_leaves_nothing_that_looks_like_an_index(tmp_path: Path) -> None:
    paths = os.pathsep.join([str(Path(__file__).parents[1] / "helpers"), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path], env={**os.environ, "PYTHONPATH": paths}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    (rest,) = tmp_path.iterdir()
    assert rest.name.startswith(".index.faiss.partial-")
    with pytest.raises(ArtifactError):
        VectorIndex.open(tmp_path)
    build(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.faiss", "index.json"]


def test_one_build_at_a_time(tmp_path: Path) -> None:
    handle = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="another build is at work"):
            build(tmp_path)
    finally:
        os.close(handle)
    build(tmp_path)


def test_a_place_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(OutputError, match="cannot be used"):
        build(tmp_path / "a")


@pytest.mark.parametrize("kind", ["flat", "ivf-sq8"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "missing"])
def test_a_damaged_file_is_refused(tmp_path: Path, kind: IndexKind, damage: str) -> None:
    build(tmp_path, kind)
    path = tmp_path / "index.faiss"
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data[:-1] if damage == "cut" else data)
    with pytest.raises(ArtifactError, match=r"cannot be read|is not the index that index\.json describes"):
        VectorIndex.open(tmp_path)


@pytest.mark.parametrize("data", [b"", b"garbage" * 100, b"IxFI" + bytes(20)])
def test_what_is_no_index_is_refused_even_with_its_digest(tmp_path: Path, data: bytes) -> None:
    build(tmp_path)
    (tmp_path / "index.faiss").write_bytes(data)
    _claim(tmp_path)
    with pytest.raises(ArtifactError, match="no index that faiss"):
        VectorIndex.open(tmp_path)


def test_another_catalogs_index_is_refused_even_with_its_digest(tmp_path: Path) -> None:
    build(tmp_path / "a")
    build_index([VECTORS[:900]], 900, DIMENSION, tmp_path / "b", kind="flat", memory_bytes=10**9)
    (tmp_path / "a" / "index.faiss").write_bytes((tmp_path / "b" / "index.faiss").read_bytes())
    _claim(tmp_path / "a")
    with pytest.raises(ArtifactError, match="holds a IndexScalarQuantizer of 900 vectors"):
        VectorIndex.open(tmp_path / "a")


def test_an_unknown_version_is_refused(tmp_path: Path) -> None:
    build(tmp_path)
    told = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps({**told, "version": "edgeq.index/9"}))
    with pytest.raises(ArtifactError, match="does not describe a search index"):
        VectorIndex.open(tmp_path)


def test_faiss_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    library.faiss.cache_clear()
    with pytest.raises(InputError, match="faiss is not installed") as refused:
        build_index([VECTORS], ROWS, DIMENSION, tmp_path, kind="flat", memory_bytes=10**9)
    assert refused.value.next_step == install_command("retrieval")


def _claim(directory: Path) -> None:
    """Write the record as if the file were the one."""
    record = IndexRecord.load(directory / "index.json")
    path = directory / "index.faiss"
    record.model_copy(update={"bytes": path.stat().st_size, "sha256": sha256_file(path)}).save(directory / "index.json")
