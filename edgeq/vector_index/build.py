"""Build: train, add, measure, write. Until the last line nothing of a former index is touched."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import InputError, OutputError
from edgeq.files import atomic_write
from edgeq.vector_index.fill import Progress, fill_index
from edgeq.vector_index.kinds import IndexKind, factory_string, index_bytes
from edgeq.vector_index.library import faiss, use_threads
from edgeq.vector_index.recall import measure_recall
from edgeq.vector_index.record import INDEX_FILE, RECORD_FILE, IndexRecord, RecallPoint
from edgeq.vector_index.search import VectorIndex
from edgeq.vector_index.train import train_index
from edgeq.vector_index.vectors import Shards, live_rows

__all__ = ["build_index"]

_K: Final = 10


def build_index(
    vectors: Iterable[NDArray[np.float16]],
    rows: int,
    dimension: int,
    directory: Path,
    *,
    kind: IndexKind,
    memory_bytes: int,
    seed: int = 0,
    threads: int = 1,
    removed: Collection[int] = (),
    recall_target: float = 0.98,
    recall_queries: int = 1000,
    progress: Progress | None = None,
) -> IndexRecord:
    """Build an index and write it as `index.faiss` and `index.json`.

    The same vectors, seed, threads and release of faiss give the same file; an HNSW does with one thread.

    Args:
        vectors: the catalog's shards, float16 [n, dimension] each, normalized; memory-mapped ones are read in blocks.
        rows: of all shards together: a row's number is its place in them.
        dimension: numbers of a vector.
        directory: for the two files; what it holds of a former index is replaced at the end.
        kind: of the index; see `choose_kind`.
        memory_bytes: what building may take, without Python and its libraries.
        seed: of the training sample, of the centres and of the rows that measure recall.
        threads: for faiss.
        removed: row numbers that are left out.
        recall_target: `nprobe` is raised until recall@10 is that much.
        recall_queries: rows that are asked for to measure it; 0 to leave that out.
        progress: called with the stage (`train`, `assign`, `add`, `recall`, `write`), rows done and rows in all.

    Raises:
        InputError: the vectors are not as told or too few, or building would take more memory than allowed.
        OutputError: another build is at work in the directory, or it cannot be written.
    """
    shards = Shards(vectors)
    live = live_rows(rows, removed)
    left = _require(shards, rows, dimension, live)
    _require_memory(kind, left, dimension, memory_bytes)
    report = progress or (lambda _stage, _done, _total: None)
    with _alone_in(directory):
        use_threads(threads)
        factory = factory_string(kind, left, dimension)
        index = faiss().index_factory(dimension, factory, faiss().METRIC_INNER_PRODUCT)
        report("train", 0, rows)
        points = train_index(index, kind, shards, live, seed=seed)
        fill_index(index, kind, shards, live, report, seed=seed)
        report("recall", 0, rows)
        searched = VectorIndex(index, kind, rows, nprobe=1, refine=0, vectors=shards, threads=threads)
        measured = (
            measure_recall(
                searched,
                shards,
                queries=recall_queries,
                k=_K,
                seed=seed,
                target=recall_target,
                live=live,
                threads=threads,
            )
            if recall_queries and left > 1
            else (_unmeasured(kind, searched.lists),)
        )
        report("write", 0, rows)
        size, digest = _write(directory / INDEX_FILE, index)
        record = IndexRecord(
            kind=kind,
            factory=factory,
            faiss=faiss().__version__,
            rows=rows,
            removed=rows - left,
            dimension=dimension,
            seed=seed,
            training_points=points,
            bytes=size,
            sha256=digest,
            nprobe=measured[-1].nprobe,
            refine=measured[-1].refine,
            recall=measured[-1].recall,
            recall_k=min(_K, left - 1),
            recall_queries=min(recall_queries, left) if left > 1 else 0,
            recall_target=recall_target,
            measured=measured,
        )
        record.save(directory / RECORD_FILE)
        report("write", rows, rows)
    return record


def _unmeasured(kind: IndexKind, lists: int) -> RecallPoint:
    """Settings for an index whose recall is not measured: 32 lists or 64 steps, 16 candidates."""
    nprobe = min(32, lists) if lists else 64 if kind == "hnsw" else 0
    return RecallPoint(nprobe=nprobe, refine=16 if kind == "ivf-pq" else 0, recall=0.0)


def _require(shards: Shards, rows: int, dimension: int, live: NDArray[np.bool_] | None) -> int:
    """How many rows go into the index, or InputError where the vectors are not as told."""
    if (shards.rows, shards.dimension) != (rows, dimension):
        raise InputError(
            f"the shards hold {shards.rows:,} vectors of {shards.dimension} numbers",
            expected=f"{rows:,} of {dimension}, as the catalog says",
            causes=("the embedding has not finished", "the shards belong to another catalog"),
        )
    left = rows if live is None else int(live.sum())
    if not left:
        raise InputError("no row is left to index")
    return left


def _require_memory(kind: IndexKind, rows: int, dimension: int, memory_bytes: int) -> None:
    """Raise InputError where building takes more."""
    need = index_bytes(kind, rows, dimension).build
    if need > memory_bytes:
        raise InputError(
            f"building {kind} over {rows:,} vectors of {dimension} numbers takes {need / 1e9:.2f} GB of memory",
            expected=f"at most {memory_bytes / 1e9:.2f} GB",
            next_step="choose a smaller kind, or build on a larger machine",
        )


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Lock a directory, which ends with the process, and remove what a killed build left there."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise OutputError(f"{directory} cannot be used: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputError(f"another build is at work in {directory}", next_step="wait for its end") from error
        for name in (INDEX_FILE, RECORD_FILE):
            for rest in directory.glob(f".{name}.partial-*"):
                rest.unlink(missing_ok=True)
        yield
    finally:
        os.close(handle)


class _Hashed:
    """Passes bytes on to a file, and counts and hashes them; keeps the error that faiss would swallow."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = 0
        self.sha256 = hashlib.sha256()
        self.failure: BaseException | None = None

    def write(self, data: bytes) -> None:
        """Write some."""
        try:
            self._pass_on(data)
        except BaseException as error:
            self.failure = error
            raise

    def _pass_on(self, data: bytes) -> None:
        self._file.write(data)
        self.size += len(data)
        self.sha256.update(data)


def _write(path: Path, index: Any) -> tuple[int, str]:
    """Write an index in one step; its bytes and their SHA-256."""
    told: list[tuple[int, str]] = []

    def write(file: BinaryIO) -> None:
        passed = _Hashed(file)
        try:
            writer = faiss().PyCallbackIOWriter(passed.write)
            faiss().write_index(index, writer)
            del writer  # it keeps the last piece till its end
        except Exception as error:
            raise passed.failure or error from error
        told.append((passed.size, passed.sha256.hexdigest()))

    atomic_write(path, write)
    return told[0]
