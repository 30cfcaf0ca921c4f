"""Images in a parquet file, as Hugging Face's datasets have them: a column of encoded bytes, and one of classes.

A row group is read at a time, and its size is bounded before. pyarrow is imported when it is needed.
"""

from __future__ import annotations

import bisect
import json
import threading
from collections import OrderedDict
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any, Final

from edgeq.errors import ImageError, InputError, first_line
from edgeq.model.images.stores.base import read_file

__all__ = ["Parquet"]

_MAX_ROWS: Final = 5_000_000
_MAX_GROUP_BYTES: Final = 1 << 30
"""Of a row group, as the file says it; it is held whole while its images are read."""
_MAX_LABEL_BYTES: Final = 256 << 20
_GROUPS: Final = 2
"""Row groups held: images are read in order by several threads, so that two may be in use."""
_IMAGES: Final = ("image", "img", "picture", "photo", "jpg", "png", "bytes")
_LABELS: Final = ("label", "labels", "fine_label", "class", "category")


class Parquet:
    """The rows of one file; safe from several threads.

    Args:
        path: of the file.

    Raises:
        InputError: pyarrow is not installed.
        ImageError: the file is damaged, or has no column of images.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._held: OrderedDict[int, Any] = OrderedDict()
        try:
            self._file = _pyarrow().ParquetFile(path)
            schema = self._file.schema_arrow
            features = _features(schema.metadata or {})
        except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
            raise ImageError(f"{path} is no whole parquet file: {first_line(error)}") from error
        self._column = _image_column(schema, features, path)
        metadata = self._file.metadata
        groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
        if metadata.num_rows > _MAX_ROWS or any(group.total_byte_size > _MAX_GROUP_BYTES for group in groups):
            raise ImageError(
                f"{path} has {metadata.num_rows:,} rows, in groups of up to "
                f"{max(group.total_byte_size for group in groups):,} bytes",
                expected=f"at most {_MAX_ROWS:,} rows, in groups of at most {_MAX_GROUP_BYTES:,} bytes",
                next_step="write it with smaller row groups",
            )
        self._ends = list(accumulate(group.num_rows for group in groups))
        self._rows = {f"{row:08d}.png": row for row in range(metadata.num_rows)}
        self._labels = self._read_labels(schema, features, groups)

    def names(self) -> tuple[str, ...]:
        """A name for each row, by its place."""
        return tuple(self._rows)

    def label(self, name: str) -> str | None:
        """The class of a row; None where none is said."""
        return self._labels[self._rows[name]] if self._labels else None

    def read(self, name: str) -> bytes:
        """The encoded bytes of one row's image; raises ImageError."""
        row = self._rows[name]
        group = bisect.bisect_right(self._ends, row)
        start = self._ends[group - 1] if group else 0
        with self._lock:
            value = self._group(group)[row - start].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if isinstance(data, bytes) and data:
            return data
        return self._beside(value.get("path") if isinstance(value, dict) else None, name)

    def head(self, name: str, count: int) -> bytes:
        """Its first bytes, at most `count`; raises ImageError."""
        return self.read(name)[:count]

    def _group(self, group: int) -> Any:
        """The column of images of a row group."""
        if group not in self._held:
            try:
                table = self._file.read_row_group(group, columns=[self._column])
            except (OSError, ValueError) as error:
                raise ImageError(f"{self._path} cannot be read: {first_line(error)}") from error
            self._held[group] = table.column(self._column)
            while len(self._held) > _GROUPS:
                self._held.popitem(last=False)
        return self._held[group]

    def _beside(self, said: object, name: str) -> bytes:
        """A file that a row names, below the parquet file's folder."""
        path = PurePosixPath(said) if isinstance(said, str) and said else None
        if path is None or path.is_absolute() or ".." in path.parts:
            raise ImageError(
                f"row {name} of {self._path} has no bytes", expected="an encoded image, or a path beside it"
            )
        return read_file(self._path.parent / path, str(path))

    def _read_labels(self, schema: Any, features: dict[str, Any], groups: list[Any]) -> list[str | None]:
        column, names = _label_column(schema, features)
        if column is None:
            return []
        place = schema.get_field_index(column)
        if sum(group.column(place).total_uncompressed_size for group in groups) > _MAX_LABEL_BYTES:
            raise ImageError(f"{self._path}: the column {column} is larger than {_MAX_LABEL_BYTES:,} bytes")
        try:
            values = self._file.read(columns=[column]).column(column).to_pylist()
        except (OSError, ValueError) as error:
            raise ImageError(f"{self._path} cannot be read: {first_line(error)}") from error
        return [_class(value, names) for value in values]


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(
            "parquet files are read with pyarrow, which is not installed", next_step="pip install 'pyarrow>=17'"
        ) from error
    return pyarrow.parquet


def _features(metadata: dict[bytes, bytes]) -> dict[str, Any]:
    """What Hugging Face's datasets say of the columns; empty where they said nothing."""
    try:
        said = json.loads(metadata.get(b"huggingface", b"{}"))
        features = said["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return (
        {name: each for name, each in features.items() if isinstance(each, dict)} if isinstance(features, dict) else {}
    )


def _image_column(schema: Any, features: dict[str, Any], path: Path) -> str:
    """The column of encoded images: told by the features, by its form, or by its name."""
    names = list(schema.names)
    found = [name for name in names if features.get(name, {}).get("_type") == "Image"]
    found = found or [name for name in names if _is_image_struct(schema.field(name).type)]
    found = found or [name for name in names if name.lower() in _IMAGES and "binary" in str(schema.field(name).type)]
    best = [name for name in found if name.lower() in _IMAGES] or found
    if len(best) != 1:
        raise ImageError(
            f"{path} has {len(best) or 'no'} columns of images; its columns are {', '.join(names[:20])}",
            expected="one of encoded bytes, as Hugging Face's datasets write it: image, a struct of bytes and path",
        )
    return str(best[0])


def _is_image_struct(kind: Any) -> bool:
    return str(kind).startswith("struct<") and kind.get_field_index("bytes") >= 0


def _label_column(schema: Any, features: dict[str, Any]) -> tuple[str | None, list[str]]:
    """The column of classes, and their names where the numbers have some."""
    classes = [name for name in schema.names if features.get(name, {}).get("_type") == "ClassLabel"]
    usual = [name for name in _LABELS if name in schema.names and _is_plain(schema.field(name).type)]
    column = next((name for name in _LABELS if name in classes), classes[0] if len(classes) == 1 else None)
    column = column or (usual[0] if usual and not classes else None)
    names = features.get(column or "", {}).get("names")
    return column, [str(name) for name in names] if isinstance(names, list) else []


def _is_plain(kind: Any) -> bool:
    return str(kind) in ("string", "large_string") or str(kind).startswith(("int", "uint"))


def _class(value: object, names: list[str]) -> str | None:
    """The name of a class; -1 is datasets' own for a row without one."""
    if value is None or value == -1:
        return None
    if isinstance(value, int) and names:
        return names[value] if 0 <= value < len(names) else None
    return str(value)
