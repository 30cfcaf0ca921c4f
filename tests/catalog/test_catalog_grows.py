"""A later look: images that came, went and changed; nothing else is done again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from small_catalogs import (
    BUNDLE,
    SimulatedEncoder,
    build,
    contents,
    files,
    folder,
    picture,
    tarred,
    zipped,
)

from edgeq.catalog.build import build_catalog
from edgeq.catalog.plan import GoneSources, open_plan, plan_catalog
from edgeq.catalog.read import open_catalog
from edgeq.catalog.sources import open_sources
from edgeq.errors import ArtifactError, ImageError, InputError


def live(directory: Path) -> dict[str, bytes]:
    """By image: the vector of each row that a reader sees; an image must not be there twice."""
    reader = open_catalog(directory, verify=True)
    found: dict[str, bytes] = {}
    for numbers, vectors in reader.live_vectors():
        for row, vector in zip(reader.rows(numbers.tolist()), vectors, strict=True):
            assert row["image_path"] not in found
            found[row["image_path"]] = vector.tobytes()
    return found


def fresh(images: Path | list[Path], directory: Path) -> dict[str, bytes]:
    """The same of a catalog that is made at once."""
    build(images, directory)
    return live(directory)


def same(found: dict[str, bytes], expected: dict[str, bytes]) -> bool:
    """Whether both have the same images, with the same vectors but for how a sum is rounded in another batch."""
    return found.keys() == expected.keys() and all(
        np.allclose(np.frombuffer(found[path], np.float16), np.frombuffer(expected[path], np.float16), atol=2e-3)
        for path in found
    )


def test_new_images_go_into_new_shards(tmp_path: Path) -> None:
    images = folder(tmp_path / "images", files(7))
    build(images, tmp_path / "cat")
    before = contents(tmp_path / "cat")
    folder(images, files(4, first=7) | {"0000a.png": picture(99)})
    encoder, told = SimulatedEncoder(), list[tuple[int, int]]()
    catalog = build(images, tmp_path / "cat", encoder=encoder, progress=lambda done, total: told.append((done, total)))
    assert catalog is not None
    assert [entry.rows for entry in catalog.shards] == [5, 2, 5]
    assert (encoder.batches, told) == ([1, 3, 2], [(7, 12), (10, 12), (12, 12)])
    after = contents(tmp_path / "cat")
    assert {name for name in before if after[name] != before[name]} == {"catalog.json"}
    assert same(live(tmp_path / "cat"), fresh(images, tmp_path / "fresh"))


def test_images_that_are_gone_are_left_out_and_nothing_is_embedded(tmp_path: Path) -> None:
    images = folder(tmp_path / "images", files(40) | {"0001.png": b"damaged"})
    build(images, tmp_path / "cat")
    for number in (1, 2, 4, 7):
        (images / f"{number:04d}.png").unlink()
    encoder = SimulatedEncoder()
    catalog = build(images, tmp_path / "cat", encoder=encoder)
    assert catalog is not None
    assert (encoder.batches, catalog.rows, catalog.removed) == ([], 39, 3)
    # In the first shard the image at position 1 has no row, so those behind it are one row earlier.
    lines = [json.loads(line) for line in (tmp_path / "cat/removed.jsonl").read_text().splitlines()]
    assert lines == [{"shard": 0, "rows": [1, 3]}, {"shard": 1, "rows": [2]}]
    reader = open_catalog(tmp_path / "cat")
    assert reader.removed.tolist() == [1, 3, 6]
    assert [Path(row["image_path"]).name for row in reader.rows([1, 3, 6])] == ["0002.png", "0004.png", "0007.png"]
    assert [reader.is_removed(row) for row in (0, 1, 2, 3, 38)] == [False, True, False, True, False]
    assert same(live(tmp_path / "cat"), fresh(images, tmp_path / "fresh"))


def test_a_changed_image_loses_its_row_and_gets_a_new_one(tmp_path: Path) -> None:
    images = folder(tmp_path / "images", files(7))
    build(images, tmp_path / "cat")
    old = live(tmp_path / "cat")
    folder(images, {"0003.png": picture(1003)})
    catalog = build(images, tmp_path / "cat")
    assert catalog is not None
    assert ([entry.rows for entry in catalog.shards], catalog.removed) == ([5, 2, 1], 1)
    new = live(tmp_path / "cat")
    assert {path for path in new if new[path] != old[path]} == {f"{images}/0003.png"}
    assert same(new, fresh(images, tmp_path / "fresh"))


def test_an_image_that_comes_back_gets_a_new_row(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "images.zip", files(7))
    whole = archive.read_bytes()
    build(archive, tmp_path / "cat")
    before = live(tmp_path / "cat")
    contents_without = {name: data for name, data in files(7).items() if name != "0002.png"}
    zipped(archive, contents_without)  # the CRC tells that the others are the same
    build(archive, tmp_path / "cat")
    assert before.keys() - live(tmp_path / "cat").keys() == {f"{archive}/0002.png"}
    archive.write_bytes(whole)
    catalog = build(archive, tmp_path / "cat")
    assert catalog is not None
    assert ([entry.rows for entry in catalog.shards], catalog.removed) == ([5, 2, 1], 1)
    assert same(live(tmp_path / "cat"), before)


def test_what_is_gone_before_its_turn_has_no_row_and_is_no_damage(tmp_path: Path) -> None:
    images = folder(tmp_path / "images", files(25))
    with open_sources([images]) as sources:
        plan_catalog(sources, tmp_path / "cat", bundle_digest=BUNDLE, shard_size=5)
        for number in (0, 1, 2, 3):
            (images / f"{number:04d}.png").unlink()
        folder(images, {"0010.png": picture(1010)})
        catalog = build_catalog(
            SimulatedEncoder(), sources, tmp_path / "cat", bundle_digest=BUNDLE, shard_size=5, shards=range(5)
        )
    assert catalog is not None
    assert (catalog.rows, catalog.skipped, catalog.removed) == (20, {"gone": 5}, 0)
    catalog = build(images, tmp_path / "cat")  # the changed one is new; the others never had a row
    assert catalog is not None
    assert ([entry.rows for entry in catalog.shards], catalog.removed) == ([1, 5, 4, 5, 5, 1], 0)
    assert same(live(tmp_path / "cat"), fresh(images, tmp_path / "fresh"))


def test_what_is_gone_is_known_before_its_shard_is_made(tmp_path: Path) -> None:
    images = folder(tmp_path / "images", files(12))
    build_one = range(1)
    with open_sources([images]) as sources:
        plan_catalog(sources, tmp_path / "cat", bundle_digest=BUNDLE, shard_size=5)
    assert build(images, tmp_path / "cat", shards=build_one) is None
    (images / "0001.png").unlink()
    (images / "0006.png").unlink()
    catalog = build(images, tmp_path / "cat")
    assert catalog is not None
    assert (catalog.rows, catalog.skipped, catalog.removed) == (11, {"gone": 1}, 1)
    assert same(live(tmp_path / "cat"), fresh(images, tmp_path / "fresh"))


def test_a_source_that_is_not_given_is_asked_about(tmp_path: Path) -> None:
    first = folder(tmp_path / "first", files(6))
    second = tarred(tmp_path / "second.tar", files(3, first=6))
    build(first, tmp_path / "cat")
    with pytest.raises(InputError, match=r"images of 1 sources that were not given: .*/first") as caught:
        build(second, tmp_path / "cat")
    assert "say that their images are kept" in caught.value.next_step

    def again(what: GoneSources) -> set[str]:
        with open_sources([second]) as sources:
            build_catalog(
                SimulatedEncoder(),
                sources,
                tmp_path / "cat",
                bundle_digest=BUNDLE,
                shard_size=5,
                gone_sources=what,
            )
        return {str(Path(path).parent) for path in live(tmp_path / "cat")}

    assert again("keep") == {str(first), str(second)}
    assert again("remove") == {str(second)}
    assert get_args(GoneSources) == ("refuse", "keep", "remove")
    assert build(second, tmp_path / "cat") is not None  # nothing of the first is left, so nobody is asked


def test_no_images_at_all_are_an_error_and_all_gone_are_not(tmp_path: Path) -> None:
    images = folder(tmp_path / "images", {"notes.md": b"", "some.tar": b""})
    with pytest.raises(ImageError, match=r"no images in .* \(2 no image by its name\)"):
        build(images, tmp_path / "cat")
    folder(images, files(6))
    build(images, tmp_path / "cat")
    for path in images.glob("*.png"):
        path.unlink()
    catalog = build(images, tmp_path / "cat")
    assert catalog is not None
    assert (catalog.rows, catalog.removed, live(tmp_path / "cat")) == (6, 6, {})


def test_shards_of_a_plan_are_made_without_looking_for_more(tmp_path: Path) -> None:
    images = folder(tmp_path / "images", files(7))
    build(images, tmp_path / "cat")
    folder(images, files(3, first=7))
    assert build(images, tmp_path / "cat", shards=range(2)) is not None
    plan = open_plan(tmp_path / "cat")
    assert plan is not None
    assert len(plan) == 2


@pytest.mark.parametrize("damage", ["missing", "bytes", "cut"])
def test_a_damaged_plan_is_named(tmp_path: Path, damage: str) -> None:
    images = folder(tmp_path / "images", files(7))
    build(images, tmp_path / "cat")
    folder(images, files(3, first=7))
    build(images, tmp_path / "cat")
    file = tmp_path / "cat/plan/added_0000.parquet"
    data = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(data[:-10])
    else:
        data[30] ^= 0xFF
        file.write_bytes(data)
    with pytest.raises(ArtifactError, match="plan"):
        build(images, tmp_path / "cat")
