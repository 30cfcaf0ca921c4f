"""The records of all shards, brought together into what readers read."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgeq.catalog.layout import Catalog, Layout, ShardEntry, ShardRecord, Skip
from edgeq.catalog.plan import Plan, open_plan
from edgeq.catalog.shards import complete_record
from edgeq.engine_store.lock import locked
from edgeq.errors import ArtifactError, InputError
from edgeq.files import atomic_write

__all__ = ["finish_catalog", "missing_shards"]

_SHOWN = 5


def missing_shards(directory: Path) -> tuple[int, ...]:
    """The shards that were planned and have no record yet.

    Raises:
        InputError: there is no catalog.
    """
    layout = Layout(directory)
    plan = _planned(layout)
    return tuple(shard for shard in range(len(plan)) if not layout.record(shard).exists())


def finish_catalog(directory: Path, *, verify: bool = False) -> Catalog:
    """Write `removed.jsonl` and `catalog.json` from the records of all shards; any process writes the same.

    Args:
        directory: of the catalog.
        verify: compare the SHA-256 of every file with its record.

    Raises:
        InputError: there is no catalog, or shards are missing or not whole.
        ArtifactError: the records do not belong together, or the plan is damaged.
        OutputError: it cannot be written.
    """
    layout = Layout(directory)
    _planned(layout)
    layout.make()
    with locked(layout.locks / "catalog"):
        plan = _planned(layout)  # as it is now: another process may have finished a longer one
        records = _records(layout, plan, verify)
        removed = {record.shard: _removed_rows(record, plan.removed(record.shard)) for record in records}
        catalog = _catalog(plan, records, sum(map(len, removed.values())))
        lines = (json.dumps({"shard": shard, "rows": rows}) + "\n" for shard, rows in removed.items() if rows)
        for path in (layout.removed, layout.catalog):
            layout.sweep(path)
        atomic_write(layout.removed, "".join(lines).encode())
        catalog.save(layout.catalog)
        return catalog


def _planned(layout: Layout) -> Plan:
    plan = open_plan(layout.root)
    if plan is None:
        raise InputError(f"{layout.root} holds no catalog, nor one that was begun")
    return plan


def _records(layout: Layout, plan: Plan, verify: bool) -> Sequence[ShardRecord]:
    """The records of all shards; raises InputError where one is not whole."""
    found = [complete_record(layout, plan, shard, verify=verify) for shard in range(len(plan))]
    missing = [shard for shard, record in enumerate(found) if record is None]
    if missing:
        shown = ", ".join(map(str, missing[:_SHOWN])) + (", ..." if len(missing) > _SHOWN else "")
        raise InputError(
            f"{len(missing)} of {len(plan)} shards of {layout.root} are missing or not whole: {shown}",
            next_step="make them; what is whole is not done again",
        )
    return [record for record in found if record is not None]


def _catalog(plan: Plan, records: Sequence[ShardRecord], removed: int) -> Catalog:
    dimensions = sorted({record.dimension for record in records})
    if len(dimensions) != 1:
        raise ArtifactError(
            f"the shards have vectors of {dimensions} dimensions", next_step="begin a new catalog with one encoder"
        )
    return Catalog(
        bundle_digest=plan.settings.bundle_digest,
        dimension=dimensions[0],
        shard_size=plan.settings.shard_size,
        sources=plan.sources(),
        rows=sum(record.rows for record in records),
        removed=removed,
        skipped=_kinds(records),
        shards=tuple(
            ShardEntry(
                shard=record.shard,
                rows=record.rows,
                embeddings=record.embeddings,
                metadata=record.metadata,
                skipped=_kinds([record]),
            )
            for record in records
        ),
    )


def _kinds(records: Sequence[ShardRecord]) -> dict[Skip, int]:
    """Images without a row, by the reason, in a fixed order."""
    return dict(sorted(Counter(each.kind for record in records for each in record.skipped).items()))


def _removed_rows(record: ShardRecord, positions: frozenset[int]) -> list[int]:
    """The rows of planned positions: there is none for an image that was skipped, and those behind it move up."""
    skipped = [each.position for each in record.skipped]
    return list(_rows(sorted(positions - set(skipped)), skipped))


def _rows(positions: Sequence[int], skipped: Sequence[int]) -> Iterator[int]:
    return (position - bisect_left(skipped, position) for position in positions)
