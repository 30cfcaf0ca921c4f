"""Read a catalog: vectors mapped into memory shard by shard, columns by row number, removed rows left out."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.catalog.arrow import equal_rows, read_table
from edgeq.catalog.layout import Catalog, FileRecord, Layout, ShardEntry
from edgeq.errors import ArtifactError, InputError
from edgeq.files import sha256_file
from edgeq.strict_json import read_json

__all__ = ["CatalogReader", "open_catalog"]

_TABLES: Final = 4
"""Shards whose columns are held in memory at once."""

_MAX_REMOVED_BYTES: Final = 1 << 30


class CatalogReader:
    """A catalog whose files were compared with `catalog.json`. For one thread.

    Rows are numbered over all shards, those of removed images too: a number stays that of its image for ever.

    Args:
        layout: of the catalog.
        catalog: its `catalog.json`.
        removed: numbers of removed rows, int64 [removed], rising.
    """

    def __init__(self, layout: Layout, catalog: Catalog, removed: NDArray[np.int64]) -> None:
        self.catalog = catalog
        self.removed = removed
        self.layout = layout
        self._first = tuple(accumulate((entry.rows for entry in catalog.shards), initial=0))
        self._tables: OrderedDict[int, Any] = OrderedDict()

    def __len__(self) -> int:
        """The number of rows, removed ones included."""
        return self._first[-1]

    @property
    def dimension(self) -> int:
        """Of a vector."""
        return self.catalog.dimension

    def vectors(self) -> Iterator[tuple[int, NDArray[np.float16]]]:
        """Shard by shard the number of its first row and its vectors, float16 [n, d], mapped, removed rows included.

        Raises:
            ArtifactError: a file is not what the catalog says.
        """
        for first, entry in zip(self._first, self.catalog.shards, strict=False):
            yield first, _mapped(self.layout, entry, self.dimension)

    def live_vectors(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float16]]]:
        """Shard by shard the numbers int64 [n] of the rows that are not removed, and their vectors float16 [n, d].

        Where nothing of a shard is removed, its vectors are mapped, not copied.
        """
        for first, vectors in self.vectors():
            numbers = np.arange(first, first + len(vectors), dtype=np.int64)
            live = ~np.isin(numbers, self.removed, assume_unique=True)
            yield (numbers, vectors) if live.all() else (numbers[live], vectors[live])

    def live_batches(
        self, size: int, columns: Sequence[str], *, after: tuple[int, str] | None = None
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float16], list[dict[str, Any]]]]:
        """What another database is to hold: rows that are not removed, in order, with the vectors and columns of each.

        Row numbers are ids to keep there: none is ever given to another image. At most one shard's columns and one
        batch are in memory.

        Args:
            size: rows of a batch, at most; no batch reaches into the next shard.
            columns: names; None stands for a value that a row does not have.
            after: number and `image_path` of the last row that is there already; those behind it are given. None gives
                all.

        Returns:
            numbers int64 [n], vectors float16 [n, d] and columns of each batch; n is above 0.

        Raises:
            InputError: `size` is below 1.
            ArtifactError: the row before is another image's, or a file is not what the catalog says.
        """
        if size < 1:
            raise InputError(f"batches of {size} rows were asked for, expected at least 1")
        begin = 0 if after is None else self._behind(*after)
        for (first, vectors), entry in zip(self.vectors(), self.catalog.shards, strict=True):
            if first + entry.rows <= begin or entry.metadata is None:
                continue
            path = self.layout.metadata(entry.shard)
            table = _as_long(read_table(path, columns), path, entry)
            for start in range(max(begin - first, 0), entry.rows, size):
                numbers = np.arange(first + start, first + min(start + size, entry.rows), dtype=np.int64)
                live = ~np.isin(numbers, self.removed, assume_unique=True)
                rows = table.slice(start, len(numbers)).to_pylist()
                found = [
                    {name: row.get(name) for name in columns}
                    for row, is_live in zip(rows, live, strict=True)
                    if is_live
                ]
                if found:
                    yield numbers[live], vectors[numbers[live] - first], found

    def _behind(self, row: int, image_path: str) -> int:
        """The row behind one; raises ArtifactError where that one is not of this image."""
        found = self.rows([row])[0]["image_path"] if 0 <= row < len(self) else "none"
        if found != image_path:
            raise ArtifactError(
                f"row {row:,} is of {found}, not of {image_path}",
                causes=("this is another catalog", "a damaged shard was made again, after images of it had gone"),
                next_step="bring all rows into a new table or collection",
            )
        return row + 1

    def is_removed(self, row: int) -> bool:
        """Whether the image of a row is gone or was changed since."""
        place = int(np.searchsorted(self.removed, row))
        return place < len(self.removed) and int(self.removed[place]) == row

    def rows(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """The columns of rows, in the order asked for, those of removed rows too; a shard has its own further columns.

        Raises:
            InputError: there is no such row.
            ArtifactError: a file is not what the catalog says.
        """
        places = [self.place(int(number)) for number in numbers]
        found: list[dict[str, Any]] = [{} for _ in places]
        for shard in dict.fromkeys(shard for shard, _ in places):
            mine = [row for row, (its, _) in enumerate(places) if its == shard]
            for row, columns in zip(mine, self._rows(shard, [places[row][1] for row in mine]), strict=True):
                found[row] = columns
        return found

    def place(self, number: int) -> tuple[int, int]:
        """The shard of a row, and its number there; raises InputError where there is no such row."""
        if not 0 <= number < len(self):
            raise InputError(f"the catalog has no row {number:,}", expected=f"0 to {len(self) - 1:,}")
        shard = bisect_right(self._first, number) - 1
        return shard, number - self._first[shard]

    def vector(self, number: int) -> NDArray[np.float16]:
        """The vector of one row, float16 [d]; raises InputError where there is no such row."""
        shard, within = self.place(number)
        entry = self.catalog.shards[shard]
        return np.array(_mapped(self.layout, entry, self.dimension)[within])

    def rows_with(self, column: str, values: Sequence[str | int | float]) -> list[NDArray[np.bool_]] | None:
        """For each value the rows whose column has it, bool [rows], removed rows included; reads that column once.

        Args:
            column: its name; a shard without it has no such row.
            values: texts or numbers.

        Returns:
            None where no shard has such a column.

        Raises:
            ArtifactError: a file is not what the catalog says.
        """
        masks, there = [np.zeros(len(self), np.bool_) for _ in values], False
        for first, entry in zip(self._first, self.catalog.shards, strict=False):
            if entry.metadata is None:
                continue
            path = self.layout.metadata(entry.shard)
            table = _as_long(read_table(path, [column]), path, entry)
            if column not in table.column_names:
                continue
            there = True
            for mask, value in zip(masks, values, strict=True):
                mask[first : first + entry.rows] = equal_rows(table[column], value)
        return masks if there else None

    def _rows(self, shard: int, within: Sequence[int]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._table(shard).take(within).to_pylist()
        return rows

    def _table(self, shard: int) -> Any:
        if shard not in self._tables:
            entry = self.catalog.shards[shard]
            path = self.layout.metadata(entry.shard)
            self._tables[shard] = _as_long(read_table(path), path, entry)
            while len(self._tables) > _TABLES:
                self._tables.popitem(last=False)
        self._tables.move_to_end(shard)
        return self._tables[shard]


def open_catalog(directory: Path, *, verify: bool = False) -> CatalogReader:
    """A catalog, whose files have the lengths that `catalog.json` says.

    Args:
        directory: of the catalog.
        verify: compare the SHA-256 of every file too.

    Raises:
        ArtifactError: there is no catalog, it is not finished, or a file is not what it says.
    """
    layout = Layout(directory)
    catalog = Catalog.load(layout.catalog)
    _check_listing(layout, catalog)
    for entry in catalog.shards:
        _check_file(layout.embeddings(entry.shard), entry.embeddings, verify)
        _check_file(layout.metadata(entry.shard), entry.metadata, verify)
        _mapped(layout, entry, catalog.dimension)
    return CatalogReader(layout, catalog, _removed(layout.removed, catalog))


def _as_long(table: Any, path: Path, entry: ShardEntry) -> Any:
    """A shard's table, or ArtifactError where it has not as many rows as the catalog says."""
    if table.num_rows != entry.rows:
        raise ArtifactError(f"{path} has {table.num_rows:,} rows, the catalog says {entry.rows:,}")
    return table


def _check_listing(layout: Layout, catalog: Catalog) -> None:
    """Raise ArtifactError where a catalog contradicts itself."""
    shards = [entry.shard for entry in catalog.shards]
    bare = any(entry.rows and None in (entry.embeddings, entry.metadata) for entry in catalog.shards)
    if bare or shards != list(range(len(shards))) or catalog.rows != sum(entry.rows for entry in catalog.shards):
        raise ArtifactError(f"{layout.catalog} contradicts itself: its shards and its rows do not agree")


def _check_file(path: Path, file: FileRecord | None, verify: bool) -> None:
    if file is None:
        return
    try:
        size = path.stat().st_size
        if size == file.bytes and (not verify or sha256_file(path) == file.sha256):
            return
    except OSError as error:
        raise _other(path, f"cannot be read: {error.strerror or error}") from error
    raise _other(path, f"has {size:,} bytes, not {file.bytes:,}" if size != file.bytes else "has another SHA-256")


def _other(path: Path, what: str) -> ArtifactError:
    return ArtifactError(
        f"{path} is not what the catalog says: it {what}",
        causes=("the copy is not whole", "somebody wrote to it"),
        next_step="make the catalog again with verification: only such shards are done again",
    )


def _mapped(layout: Layout, entry: ShardEntry, dimension: int) -> NDArray[np.float16]:
    """The vectors of a shard, float16 [rows, dimension], mapped into memory; raises ArtifactError if it has others."""
    if entry.embeddings is None:
        return np.empty((0, dimension), np.float16)
    path, rows = layout.embeddings(entry.shard), entry.rows
    try:
        vectors = np.load(path, mmap_mode="r" if rows else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _other(path, f"cannot be read: {error}") from error
    if vectors.shape != (rows, dimension) or vectors.dtype != np.float16:
        raise _other(path, f"holds {vectors.dtype} {list(vectors.shape)}, not float16 [{rows}, {dimension}]")
    return np.asarray(vectors)


def _removed(path: Path, catalog: Catalog) -> NDArray[np.int64]:
    """The numbers of removed rows, int64 [n], rising.

    A file that is newer than the catalog may know of more; one that knows of fewer is damaged.
    """
    first = tuple(accumulate((entry.rows for entry in catalog.shards), initial=0))
    found: set[int] = set()
    for shard, rows in _removed_lines(path, catalog):
        if shard < len(catalog.shards):
            _check_rows(path, catalog.shards[shard], rows)
            found.update(first[shard] + row for row in rows)
    if len(found) < catalog.removed:
        raise ArtifactError(f"{path} has {len(found):,} removed rows, the catalog says {catalog.removed:,}")
    return np.array(sorted(found), np.int64)


def _removed_lines(path: Path, catalog: Catalog) -> Iterator[tuple[int, list[int]]]:
    try:
        if path.stat().st_size > _MAX_REMOVED_BYTES:
            raise ValueError("it is too long")
        for line in path.read_text(encoding="utf-8").splitlines():
            entry = read_json(line.encode())
            yield int(entry["shard"]), [int(row) for row in entry["rows"]]
    except FileNotFoundError:
        if catalog.removed:
            raise _other(path, "is missing") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ArtifactError(f"{path} is no list of removed rows", causes=(str(error),)) from error


def _check_rows(path: Path, entry: ShardEntry, rows: list[int]) -> None:
    if rows and not 0 <= min(rows) <= max(rows) < entry.rows:
        raise ArtifactError(f"{path} has rows that shard {entry.shard} does not have")
