"""A shard: the unit of work, and of what is not done again. Written in an order that a loss of power cannot turn."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeq.catalog.arrow import write_groups
from edgeq.catalog.layout import FileRecord, Layout, ShardRecord, Skip, Skipped
from edgeq.catalog.metadata import Value, as_columns
from edgeq.catalog.plan import Plan
from edgeq.errors import ArtifactError
from edgeq.files import atomic_write, sha256_file

__all__ = ["ShardWork", "complete_record", "write_shard"]


@dataclass
class ShardWork:
    """A shard while it is made.

    Attributes:
        shard: its number.
        items: images planned.
        items_sha256: over their identities.
        dimension: of a vector.
        rows: the columns of each image embedded, in order.
        vectors: those of each batch, float16 [n, d].
        skipped: images that have no row.
        texts_unreadable: captions and JSON files that could not be used.
    """

    shard: int
    items: int
    items_sha256: str
    dimension: int
    rows: list[Mapping[str, Value]] = field(default_factory=list)
    vectors: list[NDArray[np.float16]] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    texts_unreadable: int = 0

    def skip(self, position: int, path: str, kind: Skip, reason: str) -> None:
        """Note an image that has no row.

        Args:
            position: in the shard's plan.
            path: where it lies.
            kind: of reason.
            reason: in words; its first line is kept.
        """
        self.skipped.append(Skipped(position=position, path=path, kind=kind, reason=reason.partition("\n")[0]))

    def add(self, rows: Sequence[Mapping[str, Value]], vectors: NDArray[np.float16]) -> None:
        """Take what a batch gave: columns and vectors float16 [n, d], one of each for every image."""
        self.rows += rows
        self.vectors.append(vectors)


def write_shard(layout: Layout, work: ShardWork, bundle_digest: str) -> ShardRecord:
    """Write a shard that was made; its lock must be held.

    Args:
        layout: of the catalog.
        work: all of the shard.
        bundle_digest: of the bundle that embedded it.

    Returns:
        its record, which is on the disk, as are the files that it speaks of.

    Raises:
        ArtifactError: an image has neither a row nor a reason, or both.
        OutputError: the disk is full, or cannot be written.
    """
    if len(work.rows) + len(work.skipped) != work.items or sum(map(len, work.vectors)) != len(work.rows):
        raise ArtifactError(
            f"shard {work.shard} has {len(work.rows)} rows and {len(work.skipped)} images without, of {work.items}"
        )
    skipped = tuple(sorted(work.skipped, key=lambda each: each.position))
    files = (layout.embeddings(work.shard), layout.metadata(work.shard))
    record = ShardRecord(
        shard=work.shard,
        bundle_digest=bundle_digest,
        items=work.items,
        items_sha256=work.items_sha256,
        rows=len(work.rows),
        dimension=work.dimension,
        embeddings=_write(layout, files[0], _npy(np.concatenate(work.vectors))) if work.rows else None,
        metadata=_write(layout, files[1], _parquet(work.rows)) if work.rows else None,
        skipped=skipped,
        texts_unreadable=work.texts_unreadable,
    )
    if not work.rows:  # embedding_reader passes over empty vectors, and then pairs the others with columns not theirs
        for path in files:
            path.unlink(missing_ok=True)
    _write_damaged(layout, record)
    layout.sweep(layout.record(work.shard))
    record.save(layout.record(work.shard))
    return record


def _write(layout: Layout, path: Path, data: bytes) -> FileRecord:
    """Write one file in one step: temporary name, sync, rename, sync of the directory."""
    layout.sweep(path)
    atomic_write(path, data)
    return FileRecord(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def _npy(vectors: NDArray[np.float16]) -> bytes:
    """The file of vectors float16 [n, d]."""
    buffer = io.BytesIO()
    np.save(buffer, vectors, allow_pickle=False)
    return buffer.getvalue()


def _parquet(rows: Sequence[Mapping[str, Value]]) -> bytes:
    buffer = io.BytesIO()
    write_groups(buffer, [as_columns(rows)])
    return buffer.getvalue()


def _write_damaged(layout: Layout, record: ShardRecord) -> None:
    """The images without a row as lines of JSON, for people and scripts; no file where there are none."""
    path = layout.damaged(record.shard)
    layout.sweep(path)
    if record.skipped:
        lines = [{"image_path": each.path, "kind": each.kind, "reason": each.reason} for each in record.skipped]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        atomic_write(path, text.encode())
    else:
        path.unlink(missing_ok=True)


def complete_record(layout: Layout, plan: Plan, shard: int, *, verify: bool = False) -> ShardRecord | None:
    """The record of a shard that is whole: its plan, its record and its files agree. None where it is to be made.

    Args:
        layout: of the catalog.
        plan: of the catalog.
        shard: its number.
        verify: compare the SHA-256 of both files too, not only their lengths.
    """
    try:
        record = ShardRecord.load(layout.record(shard))
    except ArtifactError:
        return None
    agrees = (
        record.shard == shard
        and record.bundle_digest == plan.settings.bundle_digest
        and record.items == plan.images(shard) == record.rows + len(record.skipped)
        and record.items_sha256 == plan.digest(shard)
    )
    files = ((layout.embeddings(shard), record.embeddings), (layout.metadata(shard), record.metadata))
    return record if agrees and all(_is_there(path, file, verify) for path, file in files) else None


def _is_there(path: Path, file: FileRecord | None, verify: bool) -> bool:
    """Whether a file has its length, and its bytes where that is to be seen to; or is not there, where it must not."""
    if file is None:
        return not path.exists()
    try:
        return path.stat().st_size == file.bytes and not (verify and sha256_file(path) != file.sha256)
    except OSError:
        return False
