"""Keypoints: how they are read from outputs and labels, their similarity against pycocotools', what is found again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from edgeq.errors import EngineError, InputError, ModelError
from edgeq.model.heads.boxes import Detections
from edgeq.model.heads.detector import Head, KeypointShape, Limits
from edgeq.model.heads.recognise import recognise_head
from edgeq.model.heads.seen import Seen
from edgeq.model.images.placement import Placement
from edgeq.quality.tasks.detection.found_again import Comparison
from edgeq.quality.tasks.detection.keypoints import KeypointTask
from edgeq.quality.tasks.detection.objects import Objects
from edgeq.quality.tasks.detection.precision import measure_precision
from edgeq.quality.tasks.detection.similarity import keypoint_similarity, sigmas

POSE = {"task": "pose", "names": "{0: 'person'}", "kpt_shape": "[17, 3]"}
SIDE = 200


def seen(shape: Sequence[int | None], labels: Sequence[str] | None = None, **more: Any) -> Seen:
    return Seen({"output0": tuple(shape)}, SIDE, SIDE, labels, **more)


@pytest.mark.parametrize(
    ("shape", "kind", "anchors_last"),
    [
        ((None, 56, 8400), "yolov8", True),
        ((1, 8400, 56), "yolov8", False),
        ((None, 300, 57), "nms", False),
        ((None, 56, None), "yolov8", True),
    ],
)
def test_a_pose_head_by_its_metadata(shape: Sequence[int | None], kind: str, anchors_last: bool) -> None:
    head = recognise_head(seen(shape, metadata=POSE), keypoints=True)
    assert (head.kind, head.anchors_last, head.classes) == (kind, anchors_last, 1)
    assert head.keypoints == KeypointShape(count=17, values=3)


def test_without_metadata_the_numbers_tell() -> None:
    names = ["bolt", "crack"]
    values = np.zeros((2, 12, 40), np.float32)
    values[:, 6:] = 30.0  # thirds that are no probability: three keypoints of two numbers each
    assert recognise_head(seen((None, 12, 40), names), keypoints=True).keypoints == KeypointShape(count=2, values=3)
    head = recognise_head(seen((None, 12, 40), names, values={"output0": values}), keypoints=True)
    assert head.keypoints == KeypointShape(count=3, values=2)


@pytest.mark.parametrize("shape", [(None, 55, 8400), (None, 4, 100), (1, 56), (None, 5, 300, 2)])
def test_other_outputs_are_refused_by_name(shape: Sequence[int | None]) -> None:
    with pytest.raises(ModelError, match=r"no head with keypoints that is known has these outputs: output0"):
        recognise_head(seen(shape, metadata=POSE), keypoints=True)


def head_of(kind: Any, **more: Any) -> Head:
    return Head(
        **{
            "kind": kind,
            "outputs": ("output0",),
            "classes": 2,
            "height": SIDE,
            "width": SIDE,
            "boxes": "centre" if kind == "yolov8" else "corners",
            "unit": "pixels",
            "scores": "done",
            "keypoints": KeypointShape(count=2, values=3),
            **more,
        }
    )


def test_keypoints_stay_with_their_boxes_through_nms() -> None:
    """Two anchors on one object and one elsewhere; of the two the likelier stays, with its own keypoints."""
    rows = np.array(
        [
            [50, 50, 20, 20, 0.1, 0.8, 41, 42, 0.9, 59, 58, 0.3],
            [51, 50, 20, 20, 0.1, 0.9, 43, 44, 0.8, 57, 56, 0.2],
            [120, 80, 10, 10, 0.7, 0.0, 116, 76, 1.0, 124, 84, 0.6],
        ],
        np.float32,
    )
    (found,) = head_of("yolov8", anchors_last=True).detect([rows.T[None]], Limits())
    assert found.classes.tolist() == [1, 0]
    assert found.keypoints is not None
    expected = [[[43, 44, 0.8], [57, 56, 0.2]], [[116, 76, 1.0], [124, 84, 0.6]]]
    np.testing.assert_allclose(found.keypoints, np.array(expected), rtol=1e-6)
    fields = head_of("yolov8").fields([rows[None]])
    assert {name: field.shape for name, field in fields.items()} == {
        "boxes": (1, 3, 4),
        "scores": (1, 3, 2),
        "keypoints": (1, 3, 2, 2),
        "visibility": (1, 3, 2),
    }


def test_keypoints_behind_nms_and_without_visibility() -> None:
    rows = np.array([[[40, 40, 60, 60, 0.9, 1, 0.25, 0.5, 0.75, 0.5], [0] * 10]], np.float32)
    head = head_of("nms", unit="shares", keypoints=KeypointShape(count=2, values=2))
    (found,) = head.detect([rows], Limits())
    assert found.keypoints is not None
    np.testing.assert_allclose(found.keypoints, [[[50, 100, 1], [150, 100, 1]]])
    with pytest.raises(EngineError, match=r"gives \[1, 2, 9\]"):
        head.detect([rows[..., :9]], Limits())


def test_keypoints_in_the_image() -> None:
    """An image of twice the input's size, 10 pixels from the left."""
    found = Detections(
        np.array([[10, 0, 20, 10]], np.float32),
        np.ones(1, np.float32),
        np.zeros(1, np.int64),
        np.array([[[15, 5, 0.7]]], np.float32),
    ).in_image(Placement(300, 400, (0.5, 0.5), (10, 0)))
    np.testing.assert_allclose(found.boxes, [[0, 0, 20, 20]])
    assert found.keypoints is not None
    np.testing.assert_allclose(found.keypoints, np.array([[[10, 10, 0.7]]], np.float32))


@pytest.mark.parametrize("count", [17, 4])
def test_similarity_is_pycocotools(count: int) -> None:
    rng = np.random.default_rng(count)
    ours = rng.uniform(20, 180, (5, count, 3)).astype(np.float32)
    ours[..., 2] = rng.integers(0, 2, (5, count))
    ours[:, 0, 2] = 1.0
    theirs = ours + rng.normal(0, 6, ours.shape).astype(np.float32)
    area = rng.uniform(2000, 8000, 5)
    expected = []
    for ours_one, theirs_one, area_one in zip(ours, theirs, area, strict=True):
        told = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": float(area_one), "bbox": [0, 0, 1, 1]}
        right, made = COCO(), COCO()
        for coco, points in ((right, ours_one), (made, theirs_one)):
            keypoints = {"keypoints": points.reshape(-1).tolist(), "num_keypoints": count, "score": 1.0}
            coco.dataset = {"images": [{"id": 1}], "categories": [{"id": 1}], "annotations": [{**told, **keypoints}]}
            coco.createIndex()
        evaluation = COCOeval(right, made, "keypoints")
        evaluation.params.kpt_oks_sigmas = sigmas(count)
        evaluation._prepare()
        expected.append(float(evaluation.computeOks(1, 1)[0, 0]))
    np.testing.assert_allclose(keypoint_similarity(ours, theirs, area), expected, rtol=1e-6)
    assert 0.05 < min(expected) < max(expected) < 0.99


def test_precision_by_keypoints_by_hand() -> None:
    """One object of two keypoints, sigma 0.5 each, area 100: OKS is exp(-d^2 / 200), 0.606 at d = 10."""
    truth = Objects(
        SIDE,
        SIDE,
        np.array([[0, 0, 10, 10], [50, 50, 60, 60.0]]),
        np.array([0, 0]),
        np.array([False, False]),
        np.array([100.0, 100.0]),
        np.array([[[0, 0, 2], [10, 10, 2]], [[0, 0, 0], [0, 0, 0]]], np.float64),
    )
    points = np.array([[[10, 0, 1], [20, 10, 1]]], np.float32)
    found = Detections(np.array([[80, 80, 90, 90]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int64), points)
    ranked = measure_precision([truth], [found], 1, keypoints=2)
    assert ranked.precision50 == pytest.approx(1.0)  # the second object has no keypoint: nothing to find
    assert ranked.precision == pytest.approx(0.3)  # at 0.50, 0.55 and 0.60 of ten
    assert ranked.weighted(np.array([1])) == pytest.approx(0.3)
    assert measure_precision([truth], [found], 1).precision == 0.0  # by boxes it finds nothing


def detections(points: NDArray[np.float32]) -> Detections:
    count = len(points)
    boxes = np.tile(np.array([0, 0, 20, 20], np.float32), (count, 1)) + 40 * np.arange(count, dtype=np.float32)[:, None]
    return Detections(boxes, np.full(count, 0.9, np.float32), np.zeros(count, np.int64), points)


def test_an_object_whose_keypoints_went_astray_is_lost() -> None:
    """Area 0.53 x 400 = 212, two keypoints: OKS is exp(-d^2 / 424), above a half up to 17.1 pixels."""
    points = np.zeros((2, 2, 3), np.float32) + np.array([0, 0, 1], np.float32)
    moved = points.copy()
    moved[0, :, 0] += 6.0
    moved[1, :, 0] += 18.0
    comparison = Comparison()
    comparison.fields.add({"boxes": np.ones(1, np.float32)}, {"boxes": np.ones(1, np.float32)})
    comparison.add(detections(points), detections(moved))
    figures = comparison.figures()
    assert (figures.lost, figures.new) == (0.5, 0.5)
    assert figures.keypoint_shift == pytest.approx(6.0)
    assert figures.keypoint_similarity == pytest.approx(np.exp(-36 / 424))
    assert figures.rows()[4][3] == "6.00 pixels, OKS 0.9186"
    without = detections(points).only(np.array([0]))
    plain = Comparison()
    plain.add(*(Detections(without.boxes, without.scores, without.classes) for _ in range(2)))
    assert "keypoint_shift" not in plain.figures().model_dump()


def coco(folder: Path, *keypoints: Sequence[float]) -> Path:
    folder.mkdir()
    Image.new("RGB", (40, 20)).save(folder / "a.png")
    told = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10]}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 20}],
        "annotations": [{**told, **({"keypoints": points} if points else {})} for points in keypoints],
        "categories": [{"id": 1, "name": "person", "keypoints": ["nose", "chin"]}],
    }
    (folder / "person_keypoints.json").write_text(json.dumps(content))
    return folder


def test_keypoints_of_coco(tmp_path: Path) -> None:
    found = KeypointTask().open(coco(tmp_path / "set", [1, 2, 2, 0, 0, 0], []), ["person"])
    (truth,) = found.truth.values()
    assert truth.keypoints is not None
    np.testing.assert_array_equal(truth.keypoints, [[[1, 2, 2], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]])
    assert truth.area.tolist() == pytest.approx([53.0, 53.0])
    assert truth.counted(by_keypoints=True).tolist() == [True, False]
    assert truth.counted(by_keypoints=False).tolist() == [True, True]


def test_wrong_keypoints_of_coco_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"annotations.1.keypoints has 3 numbers"):
        KeypointTask().open(coco(tmp_path / "several", [1, 2, 2, 0, 0, 0], [1, 2, 2]), ["person"])
    with pytest.raises(InputError, match=r"annotations.0.keypoints has 4 numbers"):
        KeypointTask().open(coco(tmp_path / "four", [1, 2, 2, 0]), ["person"])
    with pytest.raises(InputError, match="has no keypoints"):
        KeypointTask().open(coco(tmp_path / "none", []), ["person"])


def yolo(folder: Path, line: str, shape: str) -> Path:
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    Image.new("RGB", (40, 20)).save(folder / "images" / "a.png")
    (folder / "labels" / "a.txt").write_text(line)
    (folder / "data.yaml").write_text(f"names: [person]\nkpt_shape: {shape}\n")
    return folder


def test_keypoints_of_a_yolo_tree(tmp_path: Path) -> None:
    line = "0 0.5 0.5 0.5 0.5 0.25 0.5 2 0.75 0.1 0"
    (truth,) = KeypointTask().open(yolo(tmp_path / "three", line, "[2, 3]"), None).truth.values()
    assert truth.keypoints is not None
    np.testing.assert_allclose(truth.boxes, np.array([[10, 5, 30, 15]]))
    np.testing.assert_allclose(truth.keypoints, np.array([[[10, 10, 2], [30, 2, 0]]]))
    assert truth.area.tolist() == pytest.approx([0.53 * 200])
    line = "0 0.5 0.5 0.5 0.5 0.25 0.5 0 0"
    (truth,) = KeypointTask().open(yolo(tmp_path / "two", line, "[2, 2]"), None).truth.values()
    assert truth.keypoints is not None
    np.testing.assert_allclose(truth.keypoints, np.array([[[10, 10, 1], [0, 0, 0]]]))


@pytest.mark.parametrize(
    ("line", "shape", "message"),
    [
        ("0 0.5 0.5 0.5 0.5 0.25 0.5 2", "[2, 3]", "8 numbers"),
        ("0 0.5 0.5 0.5 0.5 1.25 0.5 2 0.75 0.1 0", "[2, 3]", "leaves the image"),
        ("0 0.5 0.5 0.5 0.5 0.25 0.5 -1 0.75 0.1 0", "[2, 3]", "leaves the image"),
        ("0 0.5 0.5 0.5 0.5", "[2, 4]", "kpt_shape is"),
        ("0 0.5 0.5 0.5 0.5", "[0, 3]", "kpt_shape is"),
        ("0 0.5 0.5 0.5 0.5", "seventeen", "kpt_shape is"),
    ],
)
def test_what_is_wrong_with_a_yolo_tree_is_named(tmp_path: Path, line: str, shape: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        KeypointTask().open(yolo(tmp_path / "set", line, shape), None)


def test_another_number_of_keypoints_is_refused(tmp_path: Path) -> None:
    task = KeypointTask(head_of("yolov8", classes=1, keypoints=KeypointShape(count=3, values=3)))
    examples = KeypointTask().open(coco(tmp_path / "set", [1, 2, 2, 0, 0, 0]), ["person"])
    with pytest.raises(ModelError, match="gives 3 keypoints for each object, the labelled set has 2"):
        task.tally(examples, ["person"], 1)
