"""From rows back to images: in every kind of source, past damaged images, in shards that were added later."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from small_catalogs import build, files, folder, image_paths, picture, tarred, zipped

from edgeq.catalog.items import GoneError
from edgeq.catalog.layout import Layout
from edgeq.catalog.read import open_catalog
from edgeq.catalog.row_images import RowImages
from edgeq.errors import ArtifactError, InputError

DAMAGED = (1, 4, 5)


def rows_of(directory: Path) -> RowImages:
    return RowImages(open_catalog(directory))


def numbers(directory: Path) -> list[int]:
    """Of the image of each row, by its name."""
    return [int(Path(path).stem) for path in image_paths(directory)]


def test_every_row_gives_the_image_that_it_is_of(tmp_path: Path) -> None:
    """Shards of 5: the first has two damaged images, the second one, and the others cross from source to source."""
    some = files(8)
    some.update({f"{number:04d}.png": b"damaged" for number in DAMAGED})
    sources = [
        folder(tmp_path / "a", some),
        zipped(tmp_path / "b.zip", files(4, first=20)),
        tarred(tmp_path / "c.tar", files(4, first=40)),
    ]
    build(sources[:2], tmp_path / "catalog", most_damaged=1)
    build(sources, tmp_path / "catalog", most_damaged=1)
    images = rows_of(tmp_path / "catalog")
    found = numbers(tmp_path / "catalog")
    assert sorted(found) == [0, 2, 3, 6, 7, *range(20, 24), *range(40, 44)]
    for row, number in enumerate(found):
        assert images.find(row).read() == picture(number)


def test_an_image_that_is_another_by_now_is_not_shown(tmp_path: Path) -> None:
    source, catalog = folder(tmp_path / "a", files(4)), tmp_path / "catalog"
    build(source, catalog)
    images = rows_of(catalog)
    (source / "0000.png").unlink()
    (source / "0001.png").write_bytes(picture(9))
    (source / "0002.png").unlink()
    (source / "0002.png").symlink_to("/etc/hostname")
    for row in range(3):
        with pytest.raises(GoneError):
            images.find(row).read()
    assert images.find(3).read() == picture(3)
    build(source, catalog)
    images = rows_of(catalog)
    for row in range(3):
        with pytest.raises(GoneError, match="is gone, or was changed"):
            images.find(row)
    assert images.find(4).read() == picture(9), "the changed one has a row of its own"


@pytest.mark.parametrize("row", [-1, 4, 10**12])
def test_there_is_no_such_row(tmp_path: Path, row: int) -> None:
    build(folder(tmp_path / "a", files(4)), tmp_path / "catalog")
    with pytest.raises(InputError, match="has no row"):
        rows_of(tmp_path / "catalog").find(row)


def test_a_source_that_is_elsewhere(tmp_path: Path) -> None:
    sources = [folder(tmp_path / "a", files(2)), tarred(tmp_path / "b.tar", files(2, first=2))]
    build(sources, tmp_path / "catalog")
    shutil.move(tmp_path / "a", tmp_path / "moved")
    (tmp_path / "b.tar").unlink()
    images = rows_of(tmp_path / "catalog")
    for row in range(4):
        with pytest.raises(GoneError):
            images.find(row).read()


def test_a_catalog_without_its_plan_or_with_that_of_another(tmp_path: Path) -> None:
    build(folder(tmp_path / "a", files(4)), tmp_path / "one")
    build(folder(tmp_path / "b", files(4)), tmp_path / "two")
    plan = Layout(tmp_path / "one").plan
    shutil.rmtree(plan)
    with pytest.raises(GoneError, match="came without its plan"):
        rows_of(tmp_path / "one").find(0)
    shutil.copytree(Layout(tmp_path / "two").plan, plan)
    with pytest.raises(ArtifactError, match="is not that of its rows"):
        rows_of(tmp_path / "one").find(0)
