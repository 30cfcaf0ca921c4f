"""Search: the nearest rows to some queries, among all or among those allowed, the same every time."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from edgeq.errors import ArtifactError, InputError, first_line
from edgeq.files import sha256_file
from edgeq.vector_index.kinds import IVF_KINDS, IndexKind
from edgeq.vector_index.library import faiss, mapping_flags, use_threads
from edgeq.vector_index.record import INDEX_FILE, RECORD_FILE, IndexRecord
from edgeq.vector_index.vectors import VectorReader

__all__ = ["NOTHING", "VectorIndex"]

NOTHING: Final = -1
"""The row number where fewer rows than asked for were found; its score is minus infinity."""

_SPARE: Final = 8
"""Further results, to see whether the last ones are tied with what comes behind them."""

_MOST_TIED: Final = 4096
"""Beyond so many results with one score the row number no longer decides which are given."""

_TYPES: Final[dict[IndexKind, str]] = {
    "flat": "IndexScalarQuantizer",
    "sq8": "IndexScalarQuantizer",
    "ivf-sq8": "IndexIVFScalarQuantizer",
    "ivf-pq": "IndexIVFPQ",
    "hnsw": "IndexHNSWSQ",
}


class VectorIndex:
    """An index that is searched, from any number of threads at once.

    Args:
        index: a faiss index, filled.
        kind: of the index.
        rows: of the catalog: row numbers are below.
        nprobe, refine: what a search takes by default; see `RecallPoint`.
        vectors: the float16 vectors that decide between candidates; without them scores of `ivf-pq` are those of codes.
        threads: for each search; one query alone uses one.
        record: what `index.json` says; None for an index that has none yet.
    """

    def __init__(
        self,
        index: Any,
        kind: IndexKind,
        rows: int,
        *,
        nprobe: int,
        refine: int,
        vectors: VectorReader | None = None,
        threads: int = 1,
        record: IndexRecord | None = None,
    ) -> None:
        self._index = index
        self._vectors = vectors
        self._threads = threads
        self.kind = kind
        self.rows = rows
        self.nprobe = nprobe
        self.refine = refine if vectors is not None else 0
        self.record = record

    @classmethod
    def open(
        cls, directory: Path, vectors: VectorReader | None = None, *, threads: int = 1, verify: bool = True
    ) -> Self:
        """Open what `build_index` wrote, mapped into memory.

        Args:
            directory: with `index.json` and `index.faiss`.
            vectors: the catalog's, for kinds that look at them at the end.
            threads: for each search.
            verify: read all of the file once and compare its SHA-256; without, only its length.

        Raises:
            ArtifactError: a file is missing, damaged, or not what the record says.
            InputError: the vectors are not those of the record, or faiss is not installed.
        """
        record = IndexRecord.load(directory / RECORD_FILE)
        path = directory / INDEX_FILE
        _require_file(path, record, verify)
        if vectors is not None and (vectors.rows < record.rows or vectors.dimension != record.dimension):
            raise InputError(
                f"{vectors.rows:,} vectors of {vectors.dimension} numbers do not belong to {path}",
                expected=f"{record.rows:,} vectors of {record.dimension}",
            )
        return cls(
            _read(path, record),
            record.kind,
            record.rows,
            nprobe=record.nprobe,
            refine=record.refine,
            vectors=vectors,
            threads=threads,
            record=record,
        )

    @property
    def dimension(self) -> int:
        """Numbers of a vector."""
        return int(self._index.d)

    @property
    def lists(self) -> int:
        """Lists of an inverted file; 0 for other kinds."""
        return int(self._index.nlist) if self.kind in IVF_KINDS else 0

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        nprobe: int | None = None,
        refine: int | None = None,
        allowed: NDArray[np.bool_] | NDArray[np.int64] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The nearest rows, best first; of equal scores the smaller row number first.

        Args:
            queries: normalized, float32 [queries, dimension].
            k: rows for each.
            nprobe: lists to look at, or an HNSW's efSearch; by default the record's, and with `allowed` so many times
                more as rows are left out, for the nearest allowed ones lie further away.
            refine: candidates for each result that the float16 vectors decide between; by default the record's.
            allowed: rows that may be found, as bool [rows] or as row numbers int64 [n]; all where it is None.

        Returns:
            Row numbers int64 [queries, k] and inner products float32 [queries, k]; `NOTHING` with minus infinity where
            there are fewer.

        Raises:
            InputError: the queries have another shape or are not finite, or `k`, `nprobe` or `allowed` cannot be.
        """
        queries = self._checked(queries, k, nprobe)
        ids = np.full((len(queries), k), NOTHING, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        mask = None if allowed is None else _mask(allowed, self.rows)
        most = min(k, self._index.ntotal if mask is None else int(mask.sum()))
        if most and len(queries):
            use_threads(self._threads)
            factor = self.refine if refine is None or self._vectors is None else refine
            settings = self._settings(mask, most * max(factor, 1), nprobe)
            find = self._refined if factor else self._settled
            ids[:, :most], scores[:, :most] = find(queries, most, most * factor if factor else most + _SPARE, settings)
        return ids, scores

    def _checked(self, queries: NDArray[np.float32], k: int, nprobe: int | None) -> NDArray[np.float32]:
        """Queries float32 [queries, dimension], C-contiguous, or InputError."""
        if k < 1 or (nprobe is not None and nprobe < 1):
            raise InputError(f"{k} results from {nprobe} lists cannot be searched", expected="1 or more of each")
        if queries.ndim != 2 or queries.shape[1] != self.dimension:
            raise InputError(
                f"queries have shape {list(queries.shape)}", expected=f"[queries, {self.dimension}], float32"
            )
        found = np.ascontiguousarray(queries, dtype=np.float32)
        if not np.isfinite(found).all():
            raise InputError("a query holds a number that is not finite")
        return found

    def _settings(self, mask: NDArray[np.bool_] | None, results: int, nprobe: int | None) -> Any:
        """faiss's parameters of a search, which hold on to the selector."""
        library = faiss()
        given: dict[str, Any] = {}
        wider = 1.0
        if mask is not None:
            given["sel"] = library.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
            wider = len(mask) / max(int(mask.sum()), 1)
        effort = nprobe or int(min(max(self.nprobe, results if self.kind == "hnsw" else 1) * wider, self.rows))
        if self.kind in IVF_KINDS:
            return library.SearchParametersIVF(nprobe=min(effort, self.lists), **given)
        if self.kind == "hnsw":
            return library.SearchParametersHNSW(efSearch=effort, **given)
        return library.SearchParameters(**given)

    def _settled(
        self, queries: NDArray[np.float32], k: int, fetch: int, settings: Any
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """As faiss scores them, with so many further results that row numbers decide between equal scores."""
        ids, scores = self._found(queries, fetch, settings)
        tied = (scores[:, k - 1] == scores[:, -1]) & (ids[:, -1] != NOTHING)
        if tied.any() and fetch < min(k + _MOST_TIED, self._index.ntotal):
            found = ids[:, :k].copy(), scores[:, :k].copy()
            found[0][tied], found[1][tied] = self._settled(queries[tied], k, 4 * fetch, settings)
            return found
        return ids[:, :k], scores[:, :k]

    def _refined(
        self, queries: NDArray[np.float32], k: int, fetch: int, settings: Any
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """As the float16 vectors of the best candidates score them."""
        assert self._vectors is not None
        ids, scores = self._found(queries, fetch, settings)
        for query, candidates, score in zip(queries, ids, scores, strict=True):
            there = candidates != NOTHING
            exact = self._vectors.read(candidates[there]).astype(np.float32)
            # Not a matrix product: its sums depend on where in the matrix a row stands, and copies would differ.
            score[there] = (exact * query).sum(axis=1)
        ids, scores = _in_order(ids, scores)
        return ids[:, :k], scores[:, :k]

    def _found(
        self, queries: NDArray[np.float32], fetch: int, settings: Any
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """What faiss finds, in order."""
        scores, ids = self._index.search(queries, min(fetch, self._index.ntotal), params=settings)
        return _in_order(ids, np.where(ids == NOTHING, np.float32(-np.inf), scores))


def _in_order(ids: NDArray[np.int64], scores: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Each query's results by falling score, then by rising row number; both are [queries, n]."""
    order = np.lexsort((ids, -scores), axis=-1)
    rows = np.arange(len(ids))[:, None]
    return ids[rows, order], scores[rows, order]


def _mask(allowed: NDArray[np.bool_] | NDArray[np.int64], rows: int) -> NDArray[np.bool_]:
    """Rows that may be found, bool [rows], or InputError."""
    if allowed.dtype == np.bool_:
        if allowed.shape != (rows,):
            raise InputError(f"a filter has shape {list(allowed.shape)}", expected=f"[{rows}], one for each row")
        return allowed.astype(np.bool_, copy=False)
    if allowed.ndim != 1 or not np.issubdtype(allowed.dtype, np.integer):
        raise InputError(
            f"a filter is {allowed.dtype} with shape {list(allowed.shape)}", expected="bool [rows] or row numbers [n]"
        )
    if len(allowed) and not 0 <= int(allowed.min()) <= int(allowed.max()) < rows:
        raise InputError(f"a filter names rows {allowed.min()} to {allowed.max()}, of {rows:,}")
    mask = np.zeros(rows, np.bool_)
    mask[allowed] = True
    return mask


def _require_file(path: Path, record: IndexRecord, verify: bool) -> None:
    """Raise ArtifactError unless the file has the length, and the SHA-256, that the record says."""
    try:
        size = path.stat().st_size
        digest = sha256_file(path) if verify and size == record.bytes else ""
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror or error}", next_step="build it again") from error
    if size == record.bytes and digest in (record.sha256, "" if not verify else record.sha256):
        return
    raise ArtifactError(
        f"{path} is not the index that {RECORD_FILE} describes",
        expected=f"{record.bytes:,} bytes with SHA-256 {record.sha256}",
        causes=(f"it has {size:,} bytes", "it was cut or changed", "a newer index is just being put in its place"),
        next_step="build it again, or copy both files again",
    )


def _read(path: Path, record: IndexRecord) -> Any:
    """The faiss index in a file, mapped, or ArtifactError."""
    library = faiss()
    try:
        index = library.read_index(str(path), mapping_flags())
    except RuntimeError as error:
        raise ArtifactError(
            f"{path} is no index that faiss {library.__version__} reads",
            expected=f"{record.factory}, written by faiss {record.faiss}",
            causes=(first_line(error),),
        ) from error
    inner = library.downcast_index(index.index) if hasattr(index, "id_map") else index
    if hasattr(inner, "invlists"):
        _without_prefetch(library.downcast_InvertedLists(inner.invlists))
    found = (type(inner).__name__, index.d, index.ntotal, index.metric_type)
    if found != (_TYPES[record.kind], record.dimension, record.indexed, library.METRIC_INNER_PRODUCT):
        raise ArtifactError(
            f"{path} holds a {found[0]} of {found[2]:,} vectors of {found[1]} numbers",
            expected=f"a {_TYPES[record.kind]} of {record.indexed:,} vectors of {record.dimension}",
            causes=("it belongs to another catalog",),
        )
    return index


def _without_prefetch(invlists: Any) -> None:
    """Lists on disk would start 32 threads at each search."""
    if hasattr(invlists, "prefetch_nthread"):
        invlists.prefetch_nthread = 0
