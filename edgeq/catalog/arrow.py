"""Everything that pyarrow does here: parquet files in and out. It is imported when it is needed."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ArtifactError, InputError, first_line
from edgeq.extras import install_command

__all__ = [
    "MAX_PARQUET_BYTES",
    "equal_rows",
    "read_group",
    "read_group_table",
    "read_groups_of",
    "read_table",
    "require_pyarrow",
    "write_groups",
]

MAX_PARQUET_BYTES: Final = 4 << 30
"""A larger file is not read."""

_TYPES: Final = {"text": "string", "whole": "int64", "real": "float64", "dictionary": "dictionary"}

Columns = dict[str, tuple[str, Sequence[Any]]]
"""By name: `text`, `whole`, `real` or `dictionary` (text that repeats itself), and the values; None is none."""


def require_pyarrow() -> tuple[Any, Any]:
    """The modules pyarrow and pyarrow.parquet.

    Raises:
        InputError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(
            "a catalog's columns are written with pyarrow, which is not installed",
            next_step=install_command("retrieval"),
        ) from error
    return pyarrow, pyarrow.parquet


def write_groups(file: BinaryIO, groups: Iterable[Columns]) -> None:
    """Write a parquet file; the same columns give the same bytes with the same pyarrow.

    Args:
        file: to write to; stays open.
        groups: a row group each, at least one; all with the same names and types.
    """
    pyarrow, parquet = require_pyarrow()
    writer: Any = None
    for columns in groups:
        table = pyarrow.table(
            {name: pyarrow.array(values, _type(pyarrow, kind)) for name, (kind, values) in columns.items()}
        )
        if writer is None:
            writer = parquet.ParquetWriter(
                pyarrow.PythonFile(file, "w"), table.schema, compression="zstd", write_page_checksum=True
            )
        writer.write_table(table, row_group_size=max(table.num_rows, 1))
    writer.close()


def _type(pyarrow: Any, kind: str) -> Any:
    if kind == "dictionary":
        return pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
    return getattr(pyarrow, _TYPES[kind])()


def read_groups_of(path: Path) -> tuple[int, ...]:
    """The rows of each row group, from the end of the file.

    Raises:
        ArtifactError: it is missing, damaged or no parquet file.
    """
    _, parquet = require_pyarrow()
    try:
        with parquet.ParquetFile(path) as file:
            return tuple(file.metadata.row_group(index).num_rows for index in range(file.num_row_groups))
    except Exception as error:  # pyarrow raises OSError, ValueError and its own for damaged files
        raise _damaged(path, error) from error


def read_group(path: Path, group: int, columns: Sequence[str] | None = None) -> dict[str, list[Any]]:
    """One row group, by column.

    Args:
        path: of the file.
        group: its number.
        columns: to read; all by default.

    Raises:
        ArtifactError: the file is missing, damaged or no parquet file.
    """
    found: dict[str, list[Any]] = read_group_table(path, group, columns).to_pydict()
    return found


def read_group_table(path: Path, group: int, columns: Sequence[str] | None = None) -> Any:
    """One row group, as a pyarrow.Table: a tenth of the memory of what `read_group` gives.

    Args:
        path: of the file.
        group: its number.
        columns: to read; all by default.

    Raises:
        ArtifactError: the file is missing, damaged or no parquet file.
    """
    _, parquet = require_pyarrow()
    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            return file.read_row_group(group, columns, use_threads=False)
    except Exception as error:
        raise _damaged(path, error) from error


def read_table(path: Path, columns: Sequence[str] | None = None) -> Any:
    """A whole file, as a pyarrow.Table.

    Args:
        path: of the file.
        columns: to read, those that it has of them; all by default.

    Raises:
        ArtifactError: it is missing, too large, damaged or no parquet file.
    """
    _, parquet = require_pyarrow()
    try:
        if path.stat().st_size > MAX_PARQUET_BYTES:
            raise ValueError(f"larger than {MAX_PARQUET_BYTES:,} bytes")
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            return file.read(columns, use_threads=False)
    except Exception as error:
        raise _damaged(path, error) from error


def equal_rows(column: Any, value: str | int | float) -> NDArray[np.bool_]:
    """Where a column of a pyarrow.Table has a value, bool [rows]; nowhere, where it is of another type.

    Args:
        column: of text or numbers.
        value: that is looked for; 3 and 3.0 are one.
    """
    pyarrow, _ = require_pyarrow()
    compute = importlib.import_module("pyarrow.compute")
    number = pyarrow.types.is_integer(column.type) or pyarrow.types.is_floating(column.type)
    broken = isinstance(value, float) and not value.is_integer()
    if number == isinstance(value, str) or (broken and pyarrow.types.is_integer(column.type)):
        return np.zeros(len(column), np.bool_)
    try:
        wanted = pyarrow.scalar(value, column.type if number else pyarrow.string())
    except (pyarrow.ArrowInvalid, OverflowError):  # 1e30 among whole numbers
        return np.zeros(len(column), np.bool_)
    there = compute.equal(column if number else column.cast(pyarrow.string()), wanted)
    found: NDArray[np.bool_] = compute.fill_null(there, False).to_numpy().astype(np.bool_)
    return found


def _damaged(path: Path, error: Exception) -> ArtifactError:
    return ArtifactError(f"{path} cannot be read as a parquet file", causes=(first_line(error),))
