"""The search index beside plain faiss of the same factory string: time and memory of building, recall, speed.

Vectors like those of an image encoder are drawn onto the disk as float16 shards. Each build and each search is a
process of its own; every process reads the same shards.

    python -m benchmarks.vector_index --rows 1000000
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from threading import Event, Thread
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.vector_index.build import build_index
from edgeq.vector_index.kinds import IndexKind, index_bytes, training_points
from edgeq.vector_index.library import use_threads
from edgeq.vector_index.recall import Truth, exact_neighbours
from edgeq.vector_index.record import INDEX_FILE, IndexRecord
from edgeq.vector_index.search import VectorIndex
from edgeq.vector_index.train import even_sample
from edgeq.vector_index.vectors import Shards

__all__ = ["Row", "draw_shards", "main", "measure", "table"]

SHARD_ROWS: Final = 250_000
CLUSTER_ROWS: Final = 100
KINDS: Final[tuple[IndexKind, ...]] = ("flat", "ivf-sq8", "ivf-pq")
SIDES: Final = ("edgeq", "faiss")
_K: Final = 10
_QUERIES: Final = 1000
_TIMED_SECONDS: Final = 5.0
_WARM: Final = 20
_POLL_SECONDS: Final = 0.02
_DRAWN_AT_ONCE: Final = 25_000
_SCENES: Final = 2000
_SCENES_SEED: Final = 7_000_000

Find = Callable[[NDArray[np.float32], int], NDArray[np.int64]]
"""The nearest `k` rows to a query float32 [1, dimension]: int64 [1, k]."""


@dataclass(frozen=True)
class Row:
    """One kind on one side.

    Attributes:
        kind: of the index.
        side: `edgeq`, or `faiss` for the plain library.
        train, add: seconds of building; adding includes finding each row's list.
        tune: seconds in which edgeq measured recall and chose its settings.
        cpu: of the processors, all threads, in building without `tune`; other work beside it changes these least.
        peak: bytes of memory of its own (`RssAnon`) that building added to a process with its libraries, at the most.
        planned: the same, as `index_bytes` says; 0 for faiss.
        file: bytes of the index on disk.
        nprobe, refine: of the search.
        recall: share of the nearest 10 that are found.
        speed: queries a second of the processor's time, one by one, one thread.
    """

    kind: str
    side: str
    train: float
    add: float
    tune: float
    cpu: float
    peak: int
    planned: int
    file: int
    nprobe: int
    refine: int
    recall: float
    speed: float


class Clusters:
    """Vectors on the sphere in clusters of about 100, most of whose spread is in few directions.

    The i-th direction has 1 / sqrt(i) of the first one's spread, of the clusters' centres as of what lies around them.
    """

    def __init__(self, rows: int, dimension: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        turn = np.linalg.qr(random.standard_normal((dimension, dimension)))[0].astype(np.float32)
        self._spread = (np.arange(1, dimension + 1, dtype=np.float32) ** -0.5)[:, None] * turn
        self._centres = random.standard_normal((max(rows // CLUSTER_ROWS, 1), dimension), dtype=np.float32)

    def __call__(self, random: np.random.Generator, count: int) -> NDArray[np.float32]:
        """Vectors float32 [count, dimension] around centres drawn at random."""
        around = random.standard_normal((count, self._centres.shape[1]), dtype=np.float32)
        near = self._centres[random.integers(0, len(self._centres), count)] + 0.7 * around
        drawn: NDArray[np.float32] = near @ self._spread
        return drawn


class LikeClip:
    """Normal vectors of the mean and the covariance of the small CLIP's images, turned into more dimensions at random.

    Its 64 numbers come from 2,000 drawn scenes; what lies beyond 64 of the dimensions after the turn is nothing.
    """

    def __init__(self, _rows: int, dimension: int, seed: int) -> None:
        from edgeq.demo.clip.score import CLIP_WEIGHTS, embed_pictures, load
        from edgeq.demo.vlm.pool import draw_pool

        found = embed_pictures(load(CLIP_WEIGHTS)[0], draw_pool(_SCENES_SEED, _SCENES, workers=1))
        scales, directions = np.linalg.eigh(np.cov(found.T))
        random = np.random.default_rng(seed)
        turn = np.linalg.qr(random.standard_normal((dimension, found.shape[1])))[0].T.astype(np.float32)
        self._mean = found.mean(axis=0) @ turn
        self._spread = ((np.sqrt(np.maximum(scales, 0))[:, None] * directions.T) @ turn).astype(np.float32)

    def __call__(self, random: np.random.Generator, count: int) -> NDArray[np.float32]:
        """Vectors float32 [count, dimension]."""
        drawn: NDArray[np.float32] = random.standard_normal((count, len(self._spread)), dtype=np.float32) @ self._spread
        drawn += self._mean
        return drawn


LIKE: Final[dict[str, type[Clusters] | type[LikeClip]]] = {"clusters": Clusters, "clip": LikeClip}


def draw_shards(directory: Path, rows: int, dimension: int, seed: int, like: str = "clusters") -> None:
    """Draw vectors onto the disk, normalized; shards that are there stay.

    Args:
        directory: for `vectors-*.npy`, float16 [up to 250,000, dimension].
        rows: in all.
        dimension: numbers of a vector.
        seed: of the drawing.
        like: one of `LIKE`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    numbers = range(0, rows, SHARD_ROWS)
    missing = [number for number in range(len(numbers)) if not _shard(directory, number).exists()]
    draw = LIKE[like](rows, dimension, seed) if missing else None
    for number in missing:
        assert draw is not None
        random = np.random.default_rng((seed, number))
        start = numbers[number]
        end = min(start + SHARD_ROWS, rows)
        sizes = [min(_DRAWN_AT_ONCE, end - low) for low in range(start, end, _DRAWN_AT_ONCE)]
        parts = [_normalized(draw(random, size)) for size in sizes]
        np.save(_shard(directory, number), np.concatenate(parts))


def _shard(directory: Path, number: int) -> Path:
    return directory / f"vectors-{number:04}.npy"


def _normalized(vectors: NDArray[np.float32]) -> NDArray[np.float16]:
    unit: NDArray[np.float16] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    return unit


def open_shards(directory: Path) -> list[NDArray[np.float16]]:
    """The shards, float16 [n, dimension] each, memory-mapped."""
    return [np.load(path, mmap_mode="r") for path in sorted(directory.glob("vectors-*.npy"))]


def table(rows: list[Row]) -> str:
    """The figures as Markdown."""
    lines = [
        "| kind | built by | train, s | add, s | CPU, s | tune, s | peak, GB | planned, GB | file, GB | nprobe "
        "| refine | recall@10 | queries/s |",
        "|" + "---|" * 13,
    ]
    for row in rows:
        planned = f"{row.planned / 1e9:.2f}" if row.planned else ""
        tune = f"{row.tune:.0f}" if row.side == "edgeq" else ""
        seconds = f"{row.train:.0f} | {row.add:.0f} | {row.cpu:.0f} | {tune}"
        lines.append(
            f"| {row.kind} | {row.side} | {seconds} | {row.peak / 1e9:.2f} | {planned} "
            f"| {row.file / 1e9:.3f} | {row.nprobe or ''} | {row.refine or ''} | {row.recall:.4f} | {row.speed:,.0f} |"
        )
    return "\n".join(lines)


@dataclass(frozen=True)
class Job:
    """What every process is told.

    Attributes:
        work: the folder with the shards and the indexes.
        rows: vectors in all.
        dimension: numbers of a vector.
        seed: of drawing, building and asking.
        threads: for building.
        like: what the vectors are like.
        same_centres: plain faiss takes for `ivf-pq` the centres that it trained for `ivf-sq8`.
    """

    work: Path
    rows: int
    dimension: int
    seed: int
    threads: int
    like: str
    same_centres: bool = False

    @property
    def shards(self) -> Path:
        """Where the vectors are."""
        return self.work / f"vectors-{self.like}-{self.rows}-{self.dimension}-{self.seed}"

    @property
    def truth(self) -> Path:
        """What a search must find among them."""
        return self.shards / "truth.npz"

    def index(self, kind: str, side: str) -> Path:
        """The folder of an index."""
        return self.work / f"{kind}-{side}"


def _own_memory() -> int:
    """Bytes of this process that belong to no file."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


@contextmanager
def _peak() -> Iterator[Callable[[], int]]:
    """How many bytes of its own this process had at the most since the start, beyond what it had then."""
    first = _own_memory()
    seen = [first]
    ended = Event()

    def watch() -> None:
        while not ended.wait(_POLL_SECONDS):
            seen[0] = max(seen[0], _own_memory())

    watcher = Thread(target=watch)
    watcher.start()
    try:
        yield lambda: max(seen[0], _own_memory()) - first
    finally:
        ended.set()
        watcher.join()


def _truth(job: Job) -> dict[str, Any]:
    """Compare the queries with every vector, and keep the result."""
    truth = exact_neighbours(
        Shards(open_shards(job.shards)), queries=_QUERIES, k=_K, seed=job.seed + 1, threads=job.threads
    )
    np.savez(job.truth, rows=truth.rows, queries=truth.queries, ids=truth.ids, scores=truth.scores)
    return {}


def _build(job: Job, kind: IndexKind, side: str) -> dict[str, Any]:
    """Build once; seconds by stage and the peak."""
    shards = open_shards(job.shards)
    with _peak() as peak:
        seconds = _build_edgeq(job, kind, shards) if side == "edgeq" else _build_plain(job, kind, shards)
        return {**seconds, "peak": peak()}


def _build_edgeq(job: Job, kind: IndexKind, shards: list[NDArray[np.float16]]) -> dict[str, float]:
    use_threads(job.threads)
    began: dict[str, float] = {}
    busy: dict[str, float] = {}

    def progress(stage: str, _done: int, _total: int) -> None:
        began.setdefault(stage, time.perf_counter())
        busy.setdefault(stage, time.process_time())

    start, busy_before = time.perf_counter(), time.process_time()
    build_index(
        shards,
        job.rows,
        job.dimension,
        job.index(kind, "edgeq"),
        kind=kind,
        memory_bytes=1 << 62,
        seed=job.seed,
        threads=job.threads,
        progress=progress,
    )
    trained = start + _training_seconds(began, start)
    return {
        "train": trained - start,
        "add": began["recall"] - trained,
        "tune": began["write"] - began["recall"],
        "cpu": busy["recall"] - busy_before,
    }


def _training_seconds(began: dict[str, float], start: float) -> float:
    """Until the first block was done, which is counted as training: one of 16,384 rows."""
    return min(began.get("assign", began["add"]), began["add"]) - start


def _plain_faiss(threads: int) -> Any:
    """The library as it comes; in this process edgeq has not set it to compare without matrix products."""
    library = importlib.import_module("faiss")
    library.omp_set_num_threads(threads)
    return library


def _build_plain(job: Job, kind: IndexKind, shards: list[NDArray[np.float16]]) -> dict[str, float]:
    """As a script would: train on a sample in float32, add in blocks."""
    record = IndexRecord.load(job.index(kind, "edgeq") / "index.json")
    faiss = _plain_faiss(job.threads)
    index = faiss.index_factory(job.dimension, record.factory, faiss.METRIC_INNER_PRODUCT)
    start, busy_before = time.perf_counter(), time.process_time()
    points = training_points(kind, job.rows)
    if job.same_centres and kind == "ivf-pq":
        trained_already = faiss.read_index(str(job.index("ivf-sq8", "faiss") / INDEX_FILE), faiss.IO_FLAG_MMAP)
        index.quantizer.add(trained_already.quantizer.reconstruct_n(0, index.nlist))  # then it is not trained
    if points:
        index.train(Shards(shards).read(even_sample(job.rows, None, points, job.seed)).astype(np.float32))
    trained = time.perf_counter()
    for block in Shards(shards).blocks():
        index.add_with_ids(block.vectors, block.ids)
    added, busy = time.perf_counter(), time.process_time() - busy_before
    job.index(kind, "faiss").mkdir(exist_ok=True)
    faiss.write_index(index, str(job.index(kind, "faiss") / INDEX_FILE))
    return {"train": trained - start, "add": added - trained, "tune": 0.0, "cpu": busy}


def _search(job: Job, kind: IndexKind, side: str, what: str) -> dict[str, Any]:
    """At the settings edgeq chose: `recall` over all queries, or `speed` of one after another in one thread."""
    with np.load(job.truth) as kept:
        truth = Truth(kept["rows"], kept["queries"], kept["ids"], kept["scores"])
    shards = Shards(open_shards(job.shards))
    record = IndexRecord.load(job.index(kind, "edgeq") / "index.json")
    find = _edgeq_search(job, kind, shards) if side == "edgeq" else _plain_search(job, kind, shards, record)
    if what == "speed":
        return {"speed": _speed(find, truth.queries)}
    hits = 0
    for row, query, scores in zip(truth.rows, truth.queries, truth.scores, strict=True):
        found = find(query[None], _K + 1)[0]
        others = found[(found != row) & (found >= 0)][:_K]
        hits += int((shards.read(others).astype(np.float32) @ query >= scores[-1] - 1e-6).sum())
    return {"recall": hits / truth.ids.size, "nprobe": record.nprobe, "refine": record.refine}


def _speed(find: Find, queries: NDArray[np.float32]) -> float:
    """Queries a second of the processor's time, over some seconds, behind a few that are not counted."""
    for query in queries[:_WARM]:
        find(query[None], _K)
    start = time.process_time()
    done = 0
    while done < len(queries) and time.process_time() - start < _TIMED_SECONDS:
        find(queries[done][None], _K)
        done += 1
    return done / (time.process_time() - start)


def _edgeq_search(job: Job, kind: IndexKind, shards: Shards) -> Find:
    index = VectorIndex.open(job.index(kind, "edgeq"), shards)
    return lambda query, k: index.search(query, k)[0]


def _plain_search(job: Job, kind: IndexKind, shards: Shards, record: IndexRecord) -> Find:
    """All in memory; behind short codes faiss's own second look at float16 vectors."""
    faiss = _plain_faiss(1)
    index = faiss.read_index(str(job.index(kind, "faiss") / INDEX_FILE))
    if record.nprobe:
        index.nprobe = record.nprobe
    if not record.refine:
        return lambda query, k: index.search(query, k)[1][0][None]
    second = faiss.IndexScalarQuantizer(job.dimension, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    for block in shards.blocks():
        second.add(block.vectors)
    refined = faiss.IndexRefine(index, second)
    refined.k_factor = float(record.refine)
    return lambda query, k: refined.search(query, k)[1][0][None]


def _child(job: Job, task: str, *arguments: str) -> dict[str, Any]:
    """Run a task in a process of its own."""
    told = json.dumps([task, *arguments, {**asdict(job), "work": str(job.work)}])
    command = [sys.executable, "-m", "benchmarks.vector_index", "--child", told]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _as_child(told: str) -> None:
    task, *arguments, settings = json.loads(told)
    job = Job(**{**settings, "work": Path(settings["work"])})
    tasks: dict[str, Callable[..., dict[str, Any]]] = {"truth": _truth, "build": _build, "search": _search}
    print(json.dumps(tasks[task](job, *arguments)))


def measure(job: Job, kind: IndexKind, sides: list[str], rounds: int) -> list[Row]:
    """Build on each side, then search in turn.

    Args:
        job: with the shards and the truth there.
        kind: of the index.
        sides: `edgeq` first: the other takes its settings.
        rounds: searches of each; the median speed counts.
    """
    built = {side: _child(job, "build", kind, side) for side in sides}
    found = {side: _child(job, "search", kind, side, "recall") for side in sides}
    turns = [{side: _child(job, "search", kind, side, "speed")["speed"] for side in sides} for _ in range(rounds)]
    return [
        Row(
            kind=kind,
            side=side,
            file=(job.index(kind, side) / INDEX_FILE).stat().st_size,
            planned=index_bytes(kind, job.rows, job.dimension).build if side == "edgeq" else 0,
            **built[side],
            **found[side],
            speed=median(turn[side] for turn in turns),
        )
        for side in sides
    ]


def main() -> int:
    """Draw, build, search, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--like", choices=LIKE, default="clusters", help="what the vectors are like")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES, help="edgeq is always measured")
    parser.add_argument("--threads", type=int, default=2, help="for building")
    parser.add_argument("--rounds", type=int, default=3, help="searches of each side, in turn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--same-centres",
        action="store_true",
        help="plain faiss takes for ivf-pq the centres of its ivf-sq8 in --work, which it would train again from the "
        "same vectors: its seconds of training are those of codes",
    )
    parser.add_argument("--work", type=Path, help="keeps shards and indexes there; a temporary folder otherwise")
    parser.add_argument("--json", type=Path, help="write every figure there as well")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        _as_child(given.child)
        return 0
    work = given.work or Path(tempfile.mkdtemp(prefix="vector-index-"))
    try:
        job = Job(
            work.absolute(), given.rows, given.dimension, given.seed, given.threads, given.like, given.same_centres
        )
        draw_shards(job.shards, job.rows, job.dimension, job.seed, job.like)
        if not job.truth.exists():
            _child(job, "truth")
        rows: list[Row] = []
        for kind in given.kinds:
            sides = [side for side in SIDES if side == "edgeq" or side in given.sides]
            rows += measure(job, kind, sides, given.rounds)
            print(table(rows[-len(sides) :]).split("\n", 2)[-1], file=sys.stderr, flush=True)
        print(table(rows))
        if given.json:
            given.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    finally:
        if given.work is None:
            shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
