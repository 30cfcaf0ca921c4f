"""What embedding_reader 1.8.1 (of autofaiss, clip-retrieval) takes of a catalog, by names of files and headers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow.parquet
from numpy.typing import NDArray
from small_catalogs import DIMENSION, build, files, folder

from edgeq.catalog.metadata import OWN
from edgeq.catalog.read import open_catalog


def header(path: Path) -> tuple[int, int, str, int]:
    """Rows, dimension, type and where the numbers begin, from the first line of a file."""
    line = path.read_bytes()[:300].split(b"\n")[0]
    shape = re.search(r"'shape': \(([0-9]+), ([0-9]+)\)", str(line))
    kind = re.search(r"'descr': '([<f0-9]+)'", str(line))
    assert shape is not None
    assert kind is not None
    return int(shape[1]), int(shape[2]), kind[1], len(line) + 1


def rows_by_name(catalog: Path) -> list[tuple[NDArray[np.float16], str]]:
    """Vectors and paths, the files of both folders paired in the order of their names."""
    found: list[tuple[NDArray[np.float16], str]] = []
    vectors = [path for path in sorted((catalog / "img_emb").glob("**/*.npy")) if header(path)[0]]
    for path, columns in zip(vectors, sorted((catalog / "metadata").glob("**/*.parquet")), strict=False):
        count, dimension, kind, begin = header(path)
        numbers = np.frombuffer(path.read_bytes()[begin:], kind).reshape(count, dimension)
        table = pyarrow.parquet.read_table(columns, columns=["image_path"])
        found += zip(numbers, table["image_path"].to_pylist(), strict=True)
    return found


def test_vectors_and_columns_belong_together_beside_a_shard_without_rows(tmp_path: Path) -> None:
    images = folder(tmp_path / "images", files(7))
    build(images, tmp_path / "cat")
    build(folder(images, {"1000.png": b"damaged"}), tmp_path / "cat")
    build(folder(images, files(6, first=2000)), tmp_path / "cat")
    reader = open_catalog(tmp_path / "cat")
    assert [entry.rows for entry in reader.catalog.shards] == [5, 2, 0, 5, 1]
    read = rows_by_name(tmp_path / "cat")
    names = [*range(7), *range(2000, 2006)]
    assert [path for _, path in read] == [f"{images}/{number:04d}.png" for number in names]
    assert all(np.array_equal(vector, reader.vector(row)) for row, (vector, _) in enumerate(read))
    assert {header(path)[1:3] for path in (tmp_path / "cat/img_emb").iterdir()} == {(DIMENSION, "<f2")}


def test_each_shard_has_the_same_columns_of_its_own(tmp_path: Path) -> None:
    """A reader that asks for one of them finds it in every file, of one type, though a shard has not one caption."""
    made = files(8) | {f"{number:04d}.txt": b"" for number in range(5)}
    for number in range(5):
        del made[f"{number:04d}.txt"]
    build(folder(tmp_path / "images", made), tmp_path / "cat")
    schemas = [pyarrow.parquet.read_schema(path) for path in sorted((tmp_path / "cat/metadata").iterdir())]
    own = [[(name, str(schema.field(name).type)) for name in OWN] for schema in schemas]
    assert own[0] == own[1]
    assert dict(own[0])["caption"] == "string"
