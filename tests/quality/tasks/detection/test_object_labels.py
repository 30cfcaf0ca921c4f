"""Labelled sets of detectors: COCO's JSON, YOLO trees, in folders and zips; and what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import zip_folder
from PIL import Image

from edgeq.errors import InputError
from edgeq.quality.tasks.detection.objects import LabelledObjects
from edgeq.quality.tasks.detection.read import read_objects

CLASSES = ("bolt", "crack")


def picture(path: Path, width: int = 40, height: int = 20) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(path)


def content() -> dict[str, Any]:
    """Two images, three objects; category ids with a gap, in another order than their names."""
    return {
        "info": {"year": 2026},
        "images": [
            {"id": 7, "file_name": "a.png", "width": 40, "height": 20, "license": 1},
            {"id": 9, "file_name": "b.png", "width": 40, "height": 20},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 30, "bbox": [1, 2, 10, 5], "area": 30.5, "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 5, "bbox": [0, 0, 40, 20], "segmentation": [[1, 2, 3, 4]]},
            {"id": 3, "image_id": 9, "category_id": 30, "bbox": [3, 3, 4, 4], "iscrowd": 1},
        ],
        "categories": [{"id": 30, "name": "bolt"}, {"id": 5, "name": "crack", "supercategory": "flaw"}],
    }


def coco(folder: Path, place: str = "instances.json", below: str = "", **changed: Any) -> Path:
    for name in ("a.png", "b.png", "unlisted.png"):
        picture(folder / below / name)
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / place).write_text(json.dumps({**content(), **changed}))
    return folder


def check_coco(found: LabelledObjects) -> None:
    assert found.categories == ("crack", "bolt")  # by id
    names = [item.name for item in found.images.items]
    assert [Path(name).name for name in names] == ["a.png", "b.png"]
    first, second = (found.truth[name] for name in names)
    assert (first.width, first.height, first.categories.tolist()) == (40, 20, [1, 0])
    assert first.boxes.tolist() == [[1, 2, 11, 7], [0, 0, 40, 20]]
    assert first.area.tolist() == [30.5, 800.0]
    assert second.crowd.tolist() == [True]


@pytest.mark.parametrize(
    ("place", "images", "given"),
    [
        ("instances.json", "", ""),
        ("instances.json", "images/val", ""),
        ("annotations/instances_val.json", "val", ""),
        ("annotations/instances_val.json", "val", "annotations/instances_val.json"),
        ("instances.json", "", "instances.json"),
    ],
)
def test_coco_is_found_where_it_lies(tmp_path: Path, place: str, images: str, given: str) -> None:
    coco(tmp_path, place, images)
    check_coco(read_objects(tmp_path / given, ["bolt", "crack", "rust"]))


def test_a_zip_is_read_as_it_is(tmp_path: Path) -> None:
    check_coco(read_objects(zip_folder(coco(tmp_path / "set"), tmp_path / "set.zip"), CLASSES))


def test_categories_are_classes_by_name_and_by_order_where_there_are_no_names(tmp_path: Path) -> None:
    found = read_objects(coco(tmp_path), None)
    assert found.numbers(["bolt", "rust", "crack"], 3).tolist() == [2, 0]
    assert found.numbers(None, 2).tolist() == [0, 1]
    with pytest.raises(InputError, match="2 categories, the network has 1 classes"):
        found.numbers(None, 1)


def changed(key: str, place: int, **values: Any) -> dict[str, Any]:
    entries = content()[key]
    entries[place] = {**entries[place], **values}
    return {key: entries}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed("annotations", 0, bbox=[1, 2, -3, 4]), "annotations.0.bbox.2"),
        (changed("annotations", 0, bbox=[1, 2, 3]), "annotations.0.bbox"),
        (changed("annotations", 1, bbox=[90, 2, 3, 4]), "annotations.1.bbox lies outside a.png"),
        (changed("annotations", 2, image_id=8), "annotations.2 is of image 8"),
        (changed("annotations", 2, category_id=8), "category 8"),
        (changed("images", 0, file_name="c.png"), "the first is c.png"),
        (changed("images", 0, width=41), "40 x 20 pixels, and 41 x 20"),
        (changed("images", 1, id=7), "several images have the id 7"),
        (changed("categories", 1, name="bolt"), "several categories have the name bolt"),
        (changed("categories", 1, name="unheard"), "unheard"),
        ({"annotations": []}, "no object on any of the 2 images"),
        ({"images": 3}, "images"),
    ],
)
def test_what_is_wrong_with_a_coco_file_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_objects(coco(tmp_path, **change), CLASSES)


def test_several_coco_files_are_not_chosen_from(tmp_path: Path) -> None:
    coco(tmp_path)
    (tmp_path / "instances_train.json").write_bytes((tmp_path / "instances.json").read_bytes())
    with pytest.raises(InputError, match=r"several files of annotations: instances.json, instances_train.json"):
        read_objects(tmp_path, CLASSES)


@pytest.mark.parametrize("data", [b"{", b"[]", b"\xff\xfe", b'{"images": NaN}', b'{"a":' * 90_000])
def test_a_damaged_json_file(tmp_path: Path, data: bytes) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(InputError, match=r"x\.json"):
        read_objects(tmp_path / "x.json", CLASSES)


def yolo(folder: Path, *lines: str, data: str | None = "names: [bolt, crack]\n") -> Path:
    for name in ("a", "b"):
        picture(folder / "images" / "val" / f"{name}.png")
    (folder / "labels" / "val").mkdir(parents=True)
    (folder / "labels" / "val" / "a.txt").write_text("\n".join(lines or ("1 0.5 0.5 0.5 0.2", "0 0.1 0.2 0.2 0.4")))
    if data is not None:
        (folder / "data.yaml").write_text(data)
    return folder


def test_a_yolo_tree(tmp_path: Path) -> None:
    found = read_objects(yolo(tmp_path), ["crack", "bolt"])
    assert found.categories == CLASSES
    assert found.numbers(["crack", "bolt"], 2).tolist() == [1, 0]
    first, second = (found.truth[f"images/val/{name}.png"] for name in ("a", "b"))
    np.testing.assert_allclose(first.boxes, np.array([[10, 8, 30, 12], [0, 0, 8, 8]]), atol=1e-9)
    assert first.categories.tolist() == [1, 0]
    assert len(second) == 0  # no file: nothing on it


def test_polygons_have_the_box_around_them(tmp_path: Path) -> None:
    found = read_objects(yolo(tmp_path, "0 0.25 0.5 0.75 0.25 0.5 0.75"), CLASSES)
    np.testing.assert_allclose(found.truth["images/val/a.png"].boxes, np.array([[10, 5, 30, 15]]), atol=1e-9)


@pytest.mark.parametrize("data", ["names: {0: bolt, 1: crack}\n", None])
def test_names_of_a_yolo_tree(tmp_path: Path, data: str | None) -> None:
    assert read_objects(yolo(tmp_path, data=data), CLASSES).categories == CLASSES


def test_the_split_that_is_meant(tmp_path: Path) -> None:
    yolo(tmp_path)
    picture(tmp_path / "images" / "train" / "c.png")
    with pytest.raises(InputError, match="of several splits: train, val"):
        read_objects(tmp_path, CLASSES)
    (tmp_path / "data.yaml").write_text("path: ../elsewhere\nval: ../set/images/val\nnames: [bolt, crack]\n")
    assert [item.name for item in read_objects(tmp_path, CLASSES).images.items] == [
        "images/val/a.png",
        "images/val/b.png",
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.1 0.1", "a.txt, line 1: 2 is none of 2 classes"),
        ("0 0.5 0.5 0.1", "4 numbers"),
        ("0 0.5 0.5 0.1 x", "no row of numbers"),
        ("0 20 10 4 4", "leaves the image"),
        ("0 nan 0.5 0.1 0.1", "none of 2 classes"),
    ],
)
def test_what_is_wrong_with_a_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_objects(yolo(tmp_path, line), CLASSES)


@pytest.mark.parametrize("data", ["names: 3\n", "names: [a, a]\n", "- a\n", "a: [\n", "names: {1: a}\n"])
def test_a_damaged_description(tmp_path: Path, data: str) -> None:
    with pytest.raises(InputError, match=r"data\.yaml"):
        read_objects(yolo(tmp_path, data=data), CLASSES)


@pytest.mark.parametrize(
    "make",
    [lambda folder: picture(folder / "a.png"), lambda folder: yolo(folder, data=None)],
    ids=["no labels", "no names"],
)
def test_what_is_missing_is_said(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path)
    with pytest.raises(InputError):
        read_objects(tmp_path, None)
