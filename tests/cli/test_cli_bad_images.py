"""Images that cannot be used: skipped, counted and named where they are few, refused where they are many."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest
from command import ALLOW_FLAGS, Edgeq, assert_refused, listing
from pictures import cut_short, draw_pictures, png_header, zip_folder

pytestmark = pytest.mark.usefixtures("quick_latency")


@pytest.mark.parametrize("verb", ["export", "prepare"])
def test_a_folder_without_images(verb: str, edgeq: Edgeq, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "notes.txt").write_text("none yet")
    before = listing(tmp_path)
    done = edgeq(verb, tiny_model, "--images", tmp_path / "images", "-o", tmp_path / "made")
    assert_refused(done, "has no images", "notes.txt", "next: give a folder or a zip with images")
    assert listing(tmp_path) == before


def test_a_zip_with_a_climbing_path(edgeq: Edgeq, tiny_model: Path, tiny_pictures: Path, tmp_path: Path) -> None:
    images = zip_folder(tiny_pictures, tmp_path / "images.zip")
    with zipfile.ZipFile(images, "a") as archive:
        archive.writestr("../../escaped.jpg", b"x")
    before = listing(tmp_path)
    done = edgeq("prepare", tiny_model, "--images", images, "-o", tmp_path / "made")
    assert_refused(done, "'../../escaped.jpg'", "leads out of the archive", "next: make the zip again without it")
    assert listing(tmp_path) == before


def forty(folder: Path) -> list[Path]:
    """40 pictures in two class folders."""
    draw_pictures(folder, each=20)
    shutil.rmtree(folder / "blue")
    return sorted(folder.rglob("*.jpg"))


def test_one_image_of_forty_is_cut_short(edgeq: Edgeq, tiny_model: Path, tmp_path: Path) -> None:
    cut_short(forty(tmp_path / "images")[7])
    arguments = ("prepare", tiny_model, *ALLOW_FLAGS, "--images", tmp_path / "images", "-o")
    done = edgeq(*arguments, tmp_path / "made", "--eval", tmp_path / "images", "--json")
    assert done.status == 0, done.err
    made = json.loads(done.out)
    assert (made["calibration_images"], made["calibration_skipped"]) == (39, ["green/green-007.jpg"])
    assert (made["quality"]["answers"]["images"], made["quality"]["skipped"]) == (39, ["green/green-007.jpg"])
    told = edgeq(*arguments, tmp_path / "again")
    assert "Skipped 1 calibration images that cannot be read: green/green-007.jpg" in told.out


@pytest.mark.parametrize("verb", ["prepare", "calibrate"])
def test_ten_images_of_forty_are_cut_short(
    verb: str, edgeq: Edgeq, tiny_model: Path, tiny_pictures: Path, tmp_path: Path
) -> None:
    for file in forty(tmp_path / "images")[::4]:
        cut_short(file)
    given = tiny_model
    if verb == "calibrate":
        given = tmp_path / "exported"
        assert edgeq("export", tiny_model, "--images", tiny_pictures, "-o", given).status == 0
    before = listing(tmp_path)
    allowed = ALLOW_FLAGS if verb == "prepare" else ()
    done = edgeq(verb, given, "--images", tmp_path / "images", "-o", tmp_path / "made", *allowed)
    assert_refused(done, "of 40 images", "more than 5%", "green/green-008.jpg", "next: repair or remove these images")
    assert listing(tmp_path) == before


def test_a_huge_image_among_others_is_skipped_and_named(edgeq: Edgeq, tiny_model: Path, tmp_path: Path) -> None:
    forty(tmp_path / "images")
    png_header(tmp_path / "images" / "green" / "huge.png", 30_000, 30_000)
    given = ("--images", tmp_path / "images", "-o", tmp_path / "made")
    done = edgeq("prepare", tiny_model, *given, *ALLOW_FLAGS, "--json")
    assert done.status == 0, done.err
    assert json.loads(done.out)["calibration_skipped"] == ["green/huge.png"]


def test_a_huge_image_alone_is_refused(edgeq: Edgeq, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    png_header(tmp_path / "images" / "huge.png", 30_000, 30_000)
    done = edgeq("prepare", tiny_model, "--images", tmp_path / "images", "-o", tmp_path / "made")
    assert_refused(done, "1 of 1 images", "huge.png is too large")
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


@pytest.mark.parametrize("verb", ["prepare", "evaluate"])
def test_folders_that_are_no_class(
    verb: str, edgeq: Edgeq, tiny_model: Path, tiny_pictures: Path, tiny_answers: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_answers, tmp_path / "labelled")
    (tmp_path / "labelled" / "red").rename(tmp_path / "labelled" / "purple")
    given = [tiny_model, "--images", tiny_pictures, "-o", tmp_path / "made"]
    if verb == "evaluate":
        assert edgeq("prepare", tiny_model, "--images", tiny_pictures, "-o", tmp_path / "bundle").status == 0
        given = [tmp_path / "bundle"]
    before = listing(tmp_path)
    done = edgeq(verb, *given, "--eval", tmp_path / "labelled")
    assert_refused(done, "1 of 3 folders are no class of the model: purple", "next: rename the folders")
    assert listing(tmp_path) == before


def test_labelled_images_without_folders(edgeq: Edgeq, tiny_model: Path, tiny_pictures: Path, tmp_path: Path) -> None:
    done = edgeq(
        *("prepare", tiny_model, "--images", tiny_pictures, "-o", tmp_path / "made"),
        *("--eval", tiny_pictures / "red"),
    )
    assert_refused(done, "folder named after its class")
    assert listing(tmp_path) == []
