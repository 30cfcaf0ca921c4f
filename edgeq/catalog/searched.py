"""A catalog with the index over it: rows near a vector, among all or among those whose columns have some values."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.catalog.read import CatalogReader, open_catalog
from edgeq.catalog.row_images import RowImage, RowImages
from edgeq.errors import ArtifactError, InputError
from edgeq.vector_index.search import NOTHING, VectorIndex
from edgeq.vector_index.vectors import Shards

__all__ = ["INDEX", "FoundRow", "SearchedCatalog", "Value", "open_searched"]

INDEX: Final = "index"
"""The directory of the index in a catalog."""

_MASKS: Final = 256
_MASK_BYTES: Final = 64 << 20
"""Of all masks that are kept for the next filter: one bit for each row."""

_VALUES: Final = 8
"""Values that a column is looked through for at once: a byte for each and each row."""

Value = str | int | float
"""Of a column."""


@dataclass(frozen=True)
class FoundRow:
    """A row that was found.

    Attributes:
        row: its number in the catalog.
        score: cosine with what was asked.
        columns: what the catalog knows of its image.
    """

    row: int
    score: float
    columns: dict[str, Any]


class SearchedCatalog:
    """A catalog and its index, which belong together; for any number of threads.

    Args:
        reader: of the catalog; nobody else uses it.
        index: over it.
    """

    def __init__(self, reader: CatalogReader, index: VectorIndex) -> None:
        self._reader, self._index = reader, index
        self._images = RowImages(reader)
        self._reading, self._masking = Lock(), Lock()
        self._masks: OrderedDict[tuple[str, type, Value], NDArray[np.uint8]] = OrderedDict()

    @property
    def rows(self) -> int:
        """How many there are, those of removed images included."""
        return len(self._reader)

    def near(
        self, query: NDArray[np.float32], k: int, only: Mapping[str, Sequence[Value]] | None = None
    ) -> tuple[FoundRow, ...]:
        """The rows nearest to a vector, the nearest first.

        Args:
            query: of length one, float32 [dimension].
            k: how many, at most.
            only: by column, the values of which a row must have one; a row must suit all columns.

        Raises:
            InputError: `k` is below 1, or there is no such column.
            ArtifactError: a file of the catalog is not what the catalog says.
        """
        allowed = self._allowed(only) if only else None
        ids, scores = self._index.search(query[None], k, allowed=allowed)
        there = [(int(row), float(score)) for row, score in zip(ids[0], scores[0], strict=True) if row != NOTHING]
        with self._reading:
            columns = self._reader.rows([row for row, _ in there])
        return tuple(FoundRow(row, score, found) for (row, score), found in zip(there, columns, strict=True))

    def image(self, row: int) -> RowImage:
        """The image of a row, not yet read; raises as `RowImages.find`."""
        with self._reading:
            return self._images.find(row)

    def _allowed(self, only: Mapping[str, Sequence[Value]]) -> NDArray[np.bool_]:
        """Rows that suit all columns, bool [rows]."""
        allowed = np.ones(self.rows, np.bool_)
        for column, values in only.items():
            found = np.zeros(-(-self.rows // 8), np.uint8)
            for mask in self._bits(column, values):
                found |= mask
            allowed &= np.unpackbits(found, count=self.rows).astype(np.bool_)
        return allowed

    def _bits(self, column: str, values: Sequence[Value]) -> list[NDArray[np.uint8]]:
        """For each value the rows that have it, one bit for each row."""
        keys = [(column, type(value), value) for value in values]
        with self._masking:
            held = {key: self._masks[key] for key in keys if key in self._masks}
            missing = [key for key in dict.fromkeys(keys) if key not in held]
            for start in range(0, len(missing), _VALUES):
                part = missing[start : start + _VALUES]
                masks = self._reader.rows_with(column, [value for _, _, value in part])
                if masks is None:
                    raise InputError(f"no image of the catalog has a column {column[:100]!r}")
                held.update((key, np.packbits(mask)) for key, mask in zip(part, masks, strict=True))
            for key in keys:
                self._masks[key] = held[key]
                self._masks.move_to_end(key)
            while len(self._masks) > _MASKS or sum(mask.nbytes for mask in self._masks.values()) > _MASK_BYTES:
                self._masks.popitem(last=False)
        return [held[key] for key in keys]


def open_searched(
    directory: Path,
    *,
    bundle_digest: str,
    bundle: str,
    threads: int | None = None,
    reader: CatalogReader | None = None,
) -> SearchedCatalog:
    """Open a catalog and the index in it.

    Args:
        directory: of the catalog.
        bundle_digest: of the bundle that embeds the questions; it must have embedded the images.
        bundle: that one's name, for messages.
        threads: of a search; None takes one.
        reader: of the catalog, where it is open already; it is used here from then on.

    Raises:
        ArtifactError: catalog or index is missing or damaged, another bundle embedded the images, or the index was made
            of another state of the catalog.
        InputError: a package is missing.
    """
    reader = reader or open_catalog(directory)
    if bundle_digest != reader.catalog.bundle_digest:
        raise ArtifactError(
            f"{bundle} is not the bundle that {directory} was embedded with",
            expected=f"the bundle with digest {reader.catalog.bundle_digest[:12]}…",
            causes=("it was made again since",),
            next_step="give the right bundle, or index the images again into another directory",
        )
    shards = Shards(vectors for _, vectors in reader.vectors())
    index = VectorIndex.open(directory / INDEX, shards, threads=threads or 1, verify=False)
    if index.rows != len(reader) or (index.record is not None and index.record.removed != len(reader.removed)):
        raise ArtifactError(
            f"the index of {directory} is of {index.rows:,} rows, the catalog has {len(reader):,}",
            causes=("the catalog has grown since",),
            next_step="run edgeq index again",
        )
    return SearchedCatalog(reader, index)
