"""From a row of a catalog back to its image: found by its number alone, and read from where it was indexed."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from edgeq.catalog.items import GoneError, Item
from edgeq.catalog.layout import ShardRecord
from edgeq.catalog.plan import Plan, ShardListing, open_plan
from edgeq.catalog.read import CatalogReader
from edgeq.catalog.sources import Sources
from edgeq.errors import ArtifactError

__all__ = ["RowImage", "RowImages"]

_IMAGES: Final = 100_000
"""Images whose plan is held in memory at once, or those of one shard if it has more."""


@dataclass(frozen=True)
class RowImage:
    """The image of a row, not yet read.

    Attributes:
        item: where it lies, and by what it is known again.
        sources: that it is read from.
    """

    item: Item
    sources: Sources

    def read(self) -> bytes:
        """Its encoded bytes, the same that were indexed; from any thread.

        Raises:
            GoneError: it is not there, or is another by now.
            ImageError: it cannot be read.
        """
        return self.sources.read(self.item)


class RowImages:
    """Finds the images of rows. For one thread, like the reader.

    Which image a row is of stands in the catalog's plan, with length and time or CRC: so what is read is what was
    indexed, and nothing that a client says becomes a path.

    Args:
        reader: of the catalog.
    """

    def __init__(self, reader: CatalogReader) -> None:
        self._reader = reader
        self._sources = Sources(())  # none is listed: what is read stands in the plan
        self._plan: Plan | None = None
        self._shards: OrderedDict[int, tuple[ShardListing, tuple[int, ...]]] = OrderedDict()

    def find(self, row: int) -> RowImage:
        """The image of a row.

        Raises:
            InputError: there is no such row.
            GoneError: its image was removed or changed, or the catalog came without its plan.
            ArtifactError: plan or record of its shard is damaged.
        """
        shard, position = self._reader.place(row)
        if self._reader.is_removed(row):
            raise GoneError(f"the image of row {row:,} is gone, or was changed since")
        listing, skipped = self._shard(shard)
        for passed in skipped:  # planned, and without a row
            position += passed <= position
        found = listing.items(position, 1)
        if not found or found[0].path != self._reader.rows([row])[0]["image_path"]:
            raise ArtifactError(f"the plan of shard {shard} in {self._reader.layout.plan} is not that of its rows")
        return RowImage(found[0], self._sources)

    def _shard(self, shard: int) -> tuple[ShardListing, tuple[int, ...]]:
        """The plan of a shard, and the positions in it that have no row, rising."""
        if shard not in self._shards:
            record = ShardRecord.load(self._reader.layout.record(shard))
            skipped = tuple(sorted(each.position for each in record.skipped))
            self._shards[shard] = self._planned(shard), skipped
            while len(self._shards) > 1 and sum(len(each) for each, _ in self._shards.values()) > _IMAGES:
                self._shards.popitem(last=False)
        self._shards.move_to_end(shard)
        return self._shards[shard]

    def _planned(self, shard: int) -> ShardListing:
        if self._plan is None:
            self._plan = open_plan(self._reader.layout.root)
        if self._plan is None:
            raise GoneError(f"{self._reader.layout.root} came without its plan: where its images lie is not known")
        return self._plan.listing(shard)
