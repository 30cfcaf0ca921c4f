"""Reading a catalog: rows by number, mapped vectors, and files that are not what the catalog says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_catalogs import DIMENSION, build, files, folder

from edgeq.catalog.read import open_catalog
from edgeq.errors import ArtifactError, InputError


@pytest.fixture
def made(tmp_path: Path) -> Path:
    images = folder(tmp_path / "images", files(12))
    build(images, tmp_path / "cat")
    (images / "0006.png").unlink()
    build(images, tmp_path / "cat")
    return tmp_path / "cat"


def test_rows_are_numbered_over_all_shards(made: Path) -> None:
    reader = open_catalog(made, verify=True)
    assert (len(reader), reader.dimension, reader.removed.tolist()) == (12, DIMENSION, [6])
    assert [(first, vectors.shape, vectors.dtype.name) for first, vectors in reader.vectors()] == [
        (0, (5, DIMENSION), "float16"),
        (5, (5, DIMENSION), "float16"),
        (10, (2, DIMENSION), "float16"),
    ]
    assert [row["caption"] for row in reader.rows([11, 0, 6, 5])] == [f"picture {n}" for n in (11, 0, 6, 5)]
    whole = np.concatenate([vectors for _, vectors in reader.vectors()])
    assert all(np.array_equal(reader.vector(row), whole[row]) for row in range(12))
    live = list(reader.live_vectors())
    assert np.concatenate([numbers for numbers, _ in live]).tolist() == [row for row in range(12) if row != 6]
    assert np.array_equal(np.concatenate([vectors for _, vectors in live]), np.delete(whole, 6, axis=0))
    for row in (-1, 12):
        with pytest.raises(InputError, match="no row"):
            reader.rows([row])


def test_vectors_are_mapped_not_read(made: Path) -> None:
    """What is written to the file afterwards is seen: nothing was copied."""
    (_, vectors), *_ = open_catalog(made).vectors()
    assert not vectors.flags.writeable
    path = made / "img_emb/img_emb_0000.npy"
    with path.open("r+b") as file:
        file.seek(path.stat().st_size - 2)
        file.write(np.float16(42).tobytes())
    assert vectors[-1, -1] == 42


def _cut(name: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:-1])


def _edit(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        catalog = json.loads((root / "catalog.json").read_text())
        change(catalog)
        (root / "catalog.json").write_text(json.dumps(catalog))

    return edit


def _other_array(root: Path) -> None:
    """As long as the right one, but float32."""
    path = root / "img_emb/img_emb_0000.npy"
    with path.open("wb") as file:
        np.save(file, np.zeros((5, DIMENSION // 2), np.float32))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            _cut("img_emb/img_emb_0001.npy"),
            r"img_emb_0001\.npy is not what the catalog says: it has 287 bytes, not 288",
        ),
        (_cut("metadata/metadata_0001.parquet"), r"metadata_0001\.parquet is not what"),
        (lambda root: (root / "img_emb/img_emb_0002.npy").unlink(), "cannot be read: No such file"),
        (lambda root: (root / "removed.jsonl").unlink(), r"removed\.jsonl .* is missing"),
        (lambda root: (root / "removed.jsonl").write_text(""), "has 0 removed rows, the catalog says 1"),
        (lambda root: (root / "removed.jsonl").write_text("no"), "is no list of removed rows"),
        (
            lambda root: (root / "removed.jsonl").write_text('{"shard": 1, "rows": [5]}'),
            "rows that shard 1 does not have",
        ),
        (_other_array, r"holds float32 \[5, 8\], not float16 \[5, 16\]"),
        (_edit(lambda catalog: catalog.update(dimension=8)), r"not float16 \[5, 8\]"),
        (_edit(lambda catalog: catalog.update(rows=11)), "contradicts itself"),
        (_edit(lambda catalog: catalog["shards"].pop(0)), "contradicts itself"),  # type: ignore[attr-defined]
        (_edit(lambda catalog: catalog.update(version="edgeq.catalog/9")), "is not a catalog"),
        (lambda root: (root / "catalog.json").unlink(), "is not a catalog"),
    ],
)
def test_what_is_not_as_the_catalog_says_is_not_believed(
    made: Path, change: Callable[[Path], object], said: str
) -> None:
    open_catalog(made)
    change(made)
    with pytest.raises(ArtifactError, match=said):
        open_catalog(made)


def test_a_changed_byte_is_found_by_its_digest(made: Path) -> None:
    path = made / "metadata/metadata_0000.parquet"
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    reader = open_catalog(made)
    with pytest.raises(ArtifactError, match="parquet"):
        reader.rows([0])
    with pytest.raises(ArtifactError, match="another SHA-256"):
        open_catalog(made, verify=True)


def test_live_rows_in_batches_are_the_rows_that_are_not_removed(tmp_path: Path) -> None:
    """Shards of five, batches of two: none reaches into the next shard, and one whose rows are all removed is none."""
    images = folder(tmp_path / "images", files(12))
    build(images, tmp_path / "cat")
    for number in (1, 6, 7, 11):
        (images / f"{number:04d}.png").unlink()
    build(folder(images, files(1, first=20)), tmp_path / "cat")
    reader = open_catalog(tmp_path / "cat")
    found = list(reader.live_batches(2, ("image_path", "caption", "score")))
    assert [rows.tolist() for rows, _, _ in found] == [[0], [2, 3], [4], [5], [8], [9], [10], [12]]
    for rows, vectors, columns in found:
        assert vectors.dtype == np.float16
        assert np.array_equal(vectors, [reader.vector(row) for row in rows.tolist()])
        names = [Path(each["image_path"]).name for each in columns]
        assert names == [f"{20 if row == 12 else row:04d}.png" for row in rows.tolist()]
    # Odd ones have no JSON file, and so no score; the shard of the last, of an even one, has.
    assert [each["score"] for _, _, columns in found for each in columns] == [0, 0.5, None, 1, None, 2, None, 2.5, 5]


def test_live_rows_go_on_behind_what_is_elsewhere(tmp_path: Path) -> None:
    images = folder(tmp_path / "images", files(7))
    build(images, tmp_path / "cat")
    reader = open_catalog(tmp_path / "cat")

    def rows(after: tuple[int, str] | None) -> list[int]:
        return [row for numbers, _, _ in reader.live_batches(10, (), after=after) for row in numbers.tolist()]

    assert rows(None) == [0, 1, 2, 3, 4, 5, 6]
    assert rows((3, f"{images}/0003.png")) == [4, 5, 6]
    assert rows((4, f"{images}/0004.png")) == [5, 6]
    assert rows((6, f"{images}/0006.png")) == []
    for row, image in ((3, "0004.png"), (7, "0007.png"), (-1, "0000.png")):
        with pytest.raises(ArtifactError, match=f"row {row} is of .*, not of {images}/{image}"):
            rows((row, f"{images}/{image}"))
    with pytest.raises(InputError, match="batches of 0 rows"):
        next(reader.live_batches(0, ()))
