"""Images to a catalog: rows, resume, damage, refusals, and the encoder that need not wait."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from numpy.typing import NDArray
from PIL import Image
from small_catalogs import (
    BATCH,
    BUNDLE,
    DIMENSION,
    SIDE,
    SimulatedEncoder,
    build,
    contents,
    files,
    folder,
    image_paths,
    picture,
    tarred,
    zipped,
)

from edgeq.catalog.build import build_catalog
from edgeq.catalog.embedder import batch_that_fits, shape_of
from edgeq.catalog.finish import finish_catalog, missing_shards
from edgeq.catalog.layout import ShardRecord
from edgeq.catalog.plan import plan_catalog
from edgeq.catalog.read import open_catalog
from edgeq.catalog.sources import open_sources
from edgeq.engine_store.lock import locked
from edgeq.errors import EngineError, ImageError, InputError
from edgeq.extras import install_command


def vectors_of(directory: Path) -> NDArray[np.float16]:
    return np.concatenate([np.load(path) for path in sorted((directory / "img_emb").glob("*.npy"))])


def test_the_layout_is_clip_retrievals(tmp_path: Path) -> None:
    images = folder(tmp_path / "images", files(12))
    catalog = build(images, tmp_path / "cat")
    assert catalog is not None
    assert [entry.rows for entry in catalog.shards] == [5, 5, 2]
    assert (catalog.rows, catalog.dimension, catalog.skipped, catalog.removed) == (12, DIMENSION, {}, 0)
    assert catalog.sources == (str(images),)
    for shard, rows in enumerate((5, 5, 2)):
        vectors = np.load(tmp_path / f"cat/img_emb/img_emb_{shard:04d}.npy")
        table = pyarrow.parquet.read_table(tmp_path / f"cat/metadata/metadata_{shard:04d}.parquet")
        assert (vectors.dtype, vectors.shape) == (np.float16, (rows, DIMENSION))
        assert table.num_rows == rows
        np.testing.assert_allclose(np.linalg.norm(vectors.astype(np.float64), axis=1), 1, atol=1e-3)
    assert image_paths(tmp_path / "cat") == [f"{images}/{number:04d}.png" for number in range(12)]
    assert table.to_pylist() == [
        {
            "image_path": f"{images}/0010.png",
            "key": "0010",
            "caption": "picture 10",
            "width": 12,
            "height": 10,
            "bytes": len(picture(10)),
            "score": 2.5,
            "url": "u10",
        },
        {
            "image_path": f"{images}/0011.png",
            "key": "0011",
            "caption": "picture 11",
            "width": 12,
            "height": 10,
            "bytes": len(picture(11)),
            "score": None,
            "url": None,
        },
    ]


def test_each_row_is_the_vector_of_its_image(tmp_path: Path) -> None:
    images = folder(tmp_path / "images", files(7))
    build(images, tmp_path / "cat")
    encoder = SimulatedEncoder()
    for path, vector in zip(image_paths(tmp_path / "cat"), vectors_of(tmp_path / "cat"), strict=True):
        with Image.open(path) as image:
            expected = encoder.embed(encoder.preprocess(image.convert("RGB"))[np.newaxis])[0]
        np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=2e-3)


def test_a_folder_a_zip_and_a_tar_give_the_same_vectors_and_columns(tmp_path: Path) -> None:
    made = files(12)
    places = (
        folder(tmp_path / "images", made),
        zipped(tmp_path / "images.zip", made),
        tarred(tmp_path / "images.tar", made),
    )
    found = []
    for number, place in enumerate(places):
        directory = tmp_path / f"cat{number}"
        build(place, directory)
        tables = [pyarrow.parquet.read_table(path) for path in sorted((directory / "metadata").glob("*"))]
        rows = [row for table in tables for row in table.to_pylist()]
        assert [row.pop("image_path") for row in rows] == [f"{place}/{number:04d}.png" for number in range(12)]
        found.append((vectors_of(directory).tobytes(), rows))
    assert found[0] == found[1] == found[2]


def test_the_same_call_again_does_nothing_again(tmp_path: Path) -> None:
    images = folder(tmp_path / "images", files(12))
    first = build(images, tmp_path / "cat")
    before = contents(tmp_path / "cat")
    encoder, told = SimulatedEncoder(), list[tuple[int, int]]()
    again = build(images, tmp_path / "cat", encoder=encoder, progress=lambda done, total: told.append((done, total)))
    assert (again, encoder.batches, told) == (first, [], [(12, 12)])
    assert contents(tmp_path / "cat") == before


@pytest.mark.parametrize("lost", ["img_emb/img_emb_0001.npy", "metadata/metadata_0001.parquet", "shards/0001.json"])
def test_a_shard_that_lacks_a_file_is_done_again_alone(tmp_path: Path, lost: str) -> None:
    images = folder(tmp_path / "images", files(12))
    build(images, tmp_path / "cat")
    before = contents(tmp_path / "cat")
    (tmp_path / "cat" / lost).unlink()
    encoder, told = SimulatedEncoder(), list[tuple[int, int]]()
    build(images, tmp_path / "cat", encoder=encoder, progress=lambda done, total: told.append((done, total)))
    assert encoder.batches == [1, 3, 2]  # a first one to see what the encoder takes, then five images by three
    assert told == [(7, 12), (10, 12), (12, 12)]
    assert contents(tmp_path / "cat") == before


def test_a_changed_byte_is_found_where_that_is_asked_for(tmp_path: Path) -> None:
    images = folder(tmp_path / "images", files(12))
    build(images, tmp_path / "cat")
    before = contents(tmp_path / "cat")
    file = tmp_path / "cat/img_emb/img_emb_0002.npy"
    file.write_bytes(before["img_emb/img_emb_0002.npy"][:-1] + b"\xff")
    build(images, tmp_path / "cat")
    assert contents(tmp_path / "cat") != before
    build(images, tmp_path / "cat", verify=True)
    assert contents(tmp_path / "cat") == before


def test_a_record_of_other_images_is_not_believed(tmp_path: Path) -> None:
    images = folder(tmp_path / "images", files(10))
    build(images, tmp_path / "cat")
    before = contents(tmp_path / "cat")
    record = ShardRecord.load(tmp_path / "cat/shards/0000.json")
    record.model_copy(update={"items_sha256": "0" * 64}).save(tmp_path / "cat/shards/0000.json")
    build(images, tmp_path / "cat")
    assert contents(tmp_path / "cat") == before


def test_damaged_images_are_named_and_passed_over(tmp_path: Path) -> None:
    made = files(24) | {"0003.png": b"no image", "0022.png": b""}
    images = folder(tmp_path / "images", made)
    told = list[tuple[int, int]]()
    catalog = build(images, tmp_path / "cat", most_damaged=0.1, progress=lambda done, total: told.append((done, total)))
    assert catalog is not None
    assert catalog.skipped == {"cannot be decoded": 2}
    assert [entry.rows for entry in catalog.shards] == [4, 5, 5, 5, 3]
    assert told[-1] == (24, 24)
    lines = [json.loads(line) for line in (tmp_path / "cat/damaged/damaged_0000.jsonl").read_text().splitlines()]
    assert [(line["image_path"], line["kind"]) for line in lines] == [(f"{images}/0003.png", "cannot be decoded")]
    assert "cannot be decoded" in lines[0]["reason"]
    assert not (tmp_path / "cat/damaged/damaged_0001.jsonl").exists()
    assert f"{images}/0003.png" not in image_paths(tmp_path / "cat")


def test_a_shard_without_a_row_is_a_shard(tmp_path: Path) -> None:
    made = files(7) | {"0005.png": b"", "0006.png": b""}
    catalog = build(folder(tmp_path / "images", made), tmp_path / "cat")
    assert catalog is not None
    assert [entry.rows for entry in catalog.shards] == [5, 0]
    assert [(first, vectors.shape) for first, vectors in open_catalog(tmp_path / "cat").vectors()] == [
        (0, (5, DIMENSION)),
        (5, (0, DIMENSION)),
    ]
    # embedding_reader pairs the files of both folders by their order, those without a vector left out of one folder.
    assert [path.name for path in sorted((tmp_path / "cat/img_emb").iterdir())] == ["img_emb_0000.npy"]
    assert [path.name for path in sorted((tmp_path / "cat/metadata").iterdir())] == ["metadata_0000.parquet"]
    assert open_catalog(tmp_path / "cat", verify=True).rows_with("width", [12]) is not None
    before = (tmp_path / "cat/shards/0001.json").stat().st_mtime_ns
    build(tmp_path / "images", tmp_path / "cat", verify=True)
    assert (tmp_path / "cat/shards/0001.json").stat().st_mtime_ns == before  # it is whole


def test_too_many_damaged_images_are_an_error_once_a_share_says_something(tmp_path: Path) -> None:
    bad = {f"{number:04d}.png": b"bad" for number in (1, 17)}
    images = folder(tmp_path / "images", files(30) | bad)
    with pytest.raises(ImageError, match="2 of 20 images cannot be used, that is more than 5%") as caught:
        build(images, tmp_path / "cat")
    assert [cause.split()[0] for cause in caught.value.causes] == [f"{images}/0001.png", f"{images}/0017.png"]
    # What was made is kept: four shards, and their records; nothing is done before it is put right.
    assert len(list((tmp_path / "cat/shards").glob("*.json"))) == 4
    encoder = SimulatedEncoder()
    with pytest.raises(ImageError, match="2 of 20"):
        build(images, tmp_path / "cat", encoder=encoder)
    assert encoder.batches == []
    folder(images, {"0001.png": picture(1)})
    (images / "0017.png").unlink()
    catalog = build(images, tmp_path / "cat")
    assert catalog is not None
    assert sorted(image_paths(tmp_path / "cat")) == [
        f"{images}/{number:04d}.png" for number in range(30) if number != 17
    ]


def test_a_vector_that_is_none_gives_no_row(tmp_path: Path) -> None:
    class Overflows(SimulatedEncoder):
        def embed(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
            vectors = super().embed(pixels)
            vectors[1:2] = np.nan
            vectors[2:] = 0
            return vectors

    catalog = build(folder(tmp_path / "images", files(6)), tmp_path / "cat", encoder=Overflows())
    assert catalog is not None
    assert catalog.skipped == {"has no embedding": 3}
    assert [Path(path).name for path in image_paths(tmp_path / "cat")] == ["0000.png", "0003.png", "0005.png"]


def test_another_bundle_and_another_shard_size_are_refused(tmp_path: Path) -> None:
    images = folder(tmp_path / "images", files(6))
    build(images, tmp_path / "cat")
    before = contents(tmp_path / "cat")
    for shards in (None, range(1)):
        with pytest.raises(InputError, match=f"another bundle: its digest is {BUNDLE}, not bbb"):
            build(images, tmp_path / "cat", bundle="bbb", shards=shards)
        with pytest.raises(InputError, match="shards of 5 images, 6 were asked for"):
            build(images, tmp_path / "cat", shard_size=6, shards=shards)
    assert contents(tmp_path / "cat") == before


def test_shards_can_be_made_one_by_one_and_the_last_finishes(tmp_path: Path) -> None:
    images = folder(tmp_path / "images", files(12))
    build(images, tmp_path / "whole")
    with open_sources([images]) as sources:
        update = plan_catalog(sources, tmp_path / "cat", bundle_digest=BUNDLE, shard_size=5)
    assert (len(update.plan), update.added, update.removed) == (3, 12, 0)
    assert build(images, tmp_path / "cat", shards=range(2, 3)) is None
    assert missing_shards(tmp_path / "cat") == (0, 1)
    with pytest.raises(InputError, match=r"2 of 3 shards of .* are missing or not whole: 0, 1"):
        finish_catalog(tmp_path / "cat")
    assert build(images, tmp_path / "cat", shards=range(0, 2)) is not None
    assert contents(tmp_path / "cat") == contents(tmp_path / "whole")
    with pytest.raises(InputError, match="shards 0 to 2, asked for were 2 to 3"):
        build(images, tmp_path / "cat", shards=range(2, 4))


def test_a_shard_that_another_process_makes_is_waited_for(tmp_path: Path) -> None:
    """A lock is a file's: within one process, too, a second one waits."""
    images = folder(tmp_path / "images", files(12))
    with open_sources([images]) as sources:
        plan_catalog(sources, tmp_path / "cat", bundle_digest=BUNDLE, shard_size=5)
    made = threading.Event()
    encoder = SimulatedEncoder()
    done: list[object] = []

    def other() -> None:
        done.append(build(images, tmp_path / "cat", encoder=encoder, progress=lambda *_: made.set()))

    with locked(tmp_path / "cat/locks/0000"):
        thread = threading.Thread(target=other)
        thread.start()
        while missing_shards(tmp_path / "cat") != (0,):  # the others are made first
            assert thread.is_alive()
        assert not done
    thread.join()
    assert done[0] is not None
    assert image_paths(tmp_path / "cat") == [f"{images}/{number:04d}.png" for number in range(12)]


def test_the_next_batch_is_decoded_while_one_is_embedded(tmp_path: Path) -> None:
    """The encoder does not give a batch back before an image of the next one, in the next shard too, is at hand."""
    images = folder(tmp_path / "images", files(15))

    class Waits(SimulatedEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.decoded = threading.Condition()
            self.count = 0
            self.embedded = 0

        def preprocess(self, image: Image.Image) -> NDArray[np.float32]:
            with self.decoded:
                self.count += 1
                self.decoded.notify_all()
            return super().preprocess(image)

        def embed(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
            self.embedded += len(pixels)
            with self.decoded:
                wanted = min(self.embedded + (1 if self.embedded > 1 else 0), 16)
                assert self.decoded.wait_for(lambda: self.count >= wanted, timeout=60)
            return super().embed(pixels)

    encoder = Waits()
    build(images, tmp_path / "cat", encoder=encoder)
    assert encoder.batches == [1, *[3, 2] * 3]


def test_no_more_images_are_held_than_two_batches(tmp_path: Path) -> None:
    images = folder(tmp_path / "images", files(40))
    highest = 0

    class Counts(SimulatedEncoder):
        decoded = 0

        def preprocess(self, image: Image.Image) -> NDArray[np.float32]:
            self.decoded += 1
            return super().preprocess(image)

        def embed(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
            nonlocal highest
            highest = max(highest, self.decoded - sum(self.batches))
            return super().embed(pixels)

    build(images, tmp_path / "cat", encoder=Counts(), shard_size=100)
    assert BATCH <= highest <= 2 * BATCH + 2


def test_a_batch_is_what_there_is_memory_for() -> None:
    shape = shape_of(SimulatedEncoder())
    assert (shape.height, shape.width, shape.dimension, shape.image_bytes) == (SIDE, SIDE, DIMENSION, 3 * 64 * 4)
    assert batch_that_fits(256, 1000, 10**9) == 256
    assert batch_that_fits(256, 1000, 20_000) == 10
    assert batch_that_fits(256, 1000, 10) == 1
    with pytest.raises(InputError, match="a batch of 0"):
        batch_that_fits(0, 1000, 10)


def test_an_encoder_that_changes_its_mind_is_an_error(tmp_path: Path) -> None:
    images = folder(tmp_path / "images", files(6))

    class Shorter(SimulatedEncoder):
        def embed(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
            return super().embed(pixels)[:, : 16 // len(pixels)]

    class Larger(SimulatedEncoder):
        def preprocess(self, image: Image.Image) -> NDArray[np.float32]:
            return np.zeros((3, image.height, image.width), np.float32)

        def embed(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
            return np.ones((len(pixels), 4), np.float32)

    with pytest.raises(EngineError, match=r"3 images were embedded as \[3, 5\]"):
        build(images, tmp_path / "cat", encoder=Shorter())
    with pytest.raises(EngineError, match=r"preprocessed to float32 \[3, 10, 12\]"):
        build(images, tmp_path / "cat", encoder=Larger())
    assert build(images, tmp_path / "cat") is not None


def test_pyarrow_is_asked_for_by_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match="not installed") as caught, open_sources([tmp_path]) as sources:
        build_catalog(SimulatedEncoder(), sources, tmp_path / "cat", bundle_digest=BUNDLE)
    assert caught.value.next_step == install_command("retrieval")
