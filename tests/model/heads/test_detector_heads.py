"""Heads of every kind, whose right detections were worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeq.errors import EngineError
from edgeq.model.heads.boxes import Detections, overlap, suppress
from edgeq.model.heads.detector import Head, Limits

SIDE = 100
LOW = Limits(score=0.25)


def array(*rows: Any) -> NDArray[np.float32]:
    return np.array(rows, np.float32)


def logit(share: float) -> float:
    return float(np.log(share / (1 - share)))


YOLO_ROWS = array(  # centre x, centre y, width, height; three classes
    [20, 30, 20, 20, 0.9, 0.1, 0.0],  # 10, 20, 30, 40 is a 0
    [21, 30, 20, 20, 0.8, 0.1, 0.0],  # the same again: IoU 19 / 21
    [20, 30, 20, 20, 0.1, 0.7, 0.0],  # another class in the same place
    [70, 70, 40, 20, 0.0, 0.0, 0.3],  # 50, 60, 90, 80 is a 2
    [50, 50, 10, 10, 0.2, 0.2, 0.2],  # nothing
)
WANTED_BOXES = array([10, 20, 30, 40], [10, 20, 30, 40], [50, 60, 90, 80])


def head(kind: object, *, boxes: str = "centre", unit: str = "pixels", scores: str = "done", **more: object) -> Head:
    outputs = more.pop("outputs", ("output0",))
    values = {"kind": kind, "outputs": outputs, "classes": 3, "height": SIDE, "width": SIDE, "boxes": boxes}
    return Head.model_validate({**values, "unit": unit, "scores": scores, **more})


def check(found: Detections, scores: tuple[float, ...] = (0.9, 0.7, 0.3)) -> None:
    assert found.classes.tolist() == [0, 1, 2]
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)
    np.testing.assert_allclose(found.boxes, WANTED_BOXES, atol=1e-4)


@pytest.mark.parametrize("anchors_last", [True, False])
def test_yolov8(anchors_last: bool) -> None:
    rows = YOLO_ROWS[None]
    output = rows.transpose(0, 2, 1) if anchors_last else rows
    (found,) = head("yolov8", anchors_last=anchors_last).detect((output,), LOW)
    check(found)


def test_yolov8_with_logits_and_shares() -> None:
    rows = YOLO_ROWS.copy()
    rows[:, :4] /= SIDE
    rows[:, 4:] = [[logit(min(max(score, 1e-6), 1 - 1e-6)) for score in row] for row in rows[:, 4:]]
    (found,) = head("yolov8", unit="shares", scores="sigmoid").detect((rows[None],), LOW)
    check(found)


def test_a_box_is_of_every_class_where_that_is_asked_for() -> None:
    limits = Limits(score=0.1, every_class=True)
    (found,) = head("yolov8").detect((YOLO_ROWS[None],), limits)
    # the first box as 0, the fourth as 2, and each class once at 20, 30 and once in the middle
    assert sorted((int(a), round(float(b), 3)) for a, b in zip(found.classes, found.scores, strict=True)) == [
        (0, 0.2),
        (0, 0.9),
        (1, 0.2),
        (1, 0.7),
        (2, 0.2),
        (2, 0.3),
    ]


def test_yolov5_multiplies_by_objectness() -> None:
    objectness = array(0.5, 0.5, 0.5, 1.0, 1.0)
    rows = np.concatenate([YOLO_ROWS[:, :4], objectness[:, None], YOLO_ROWS[:, 4:]], axis=1)
    (found,) = head("yolov5").detect((rows[None],), LOW)
    assert found.classes.tolist() == [0, 1, 2]
    np.testing.assert_allclose(found.scores, [0.45, 0.35, 0.3], atol=1e-6)
    assert set(head("yolov5").fields((rows[None],))) == {"boxes", "objectness", "scores"}


def test_ssd_with_background() -> None:
    boxes = WANTED_BOXES[None] / SIDE
    scores = array([[0.05, 0.9, 0.05, 0.0], [0.2, 0.0, 0.7, 0.1], [0.7, 0.0, 0.0, 0.3]])
    ssd = head("ssd", boxes="corners", unit="shares", background="first", outputs=("scores", "boxes"))
    (found,) = ssd.detect((scores, boxes), LOW)
    check(found)
    (found,) = ssd.model_copy(update={"scores": "softmax"}).detect((np.log(scores + 1e-9), boxes), LOW)
    check(found)
    named = ssd.model_copy(update={"first_class": 1})  # background is the first of the class names
    assert named.detect((scores, boxes), LOW)[0].classes.tolist() == [1, 2, 3]


def test_detr_knows_no_object_by_the_last_score() -> None:
    logits = np.log(array([[0.9, 0.05, 0.0, 0.05], [0.0, 0.7, 0.1, 0.2], [0.0, 0.0, 0.3, 0.7], [0, 0, 0, 1]]) + 1e-9)
    boxes = array([[0.2, 0.3, 0.2, 0.2], [0.2, 0.3, 0.2, 0.2], [0.7, 0.7, 0.4, 0.2], [0.5, 0.5, 1, 1]])
    detr = head("detr", unit="shares", scores="softmax", background="last", outputs=("logits", "pred_boxes"))
    (found,) = detr.detect((logits, boxes), LOW)
    check(found)
    # no NMS: queries do not repeat each other
    twice = [np.repeat(values, 2, axis=1) for values in (logits, boxes)]
    assert len(detr.detect(twice, LOW)[0]) == 6


def test_rt_detr_has_a_sigmoid_for_each_class() -> None:
    scores = array([[0.9, 0.1, 0.1], [0.1, 0.7, 0.1], [0.1, 0.1, 0.3]])
    logits = np.log(scores / (1 - scores))
    boxes = array([[0.2, 0.3, 0.2, 0.2], [0.2, 0.3, 0.2, 0.2], [0.7, 0.7, 0.4, 0.2]])
    detr = head("detr", unit="shares", scores="sigmoid", outputs=("logits", "pred_boxes"))
    check(detr.detect((logits, boxes), LOW)[0])


def test_nms_inside_as_rows() -> None:
    rows = array(
        [50, 60, 90, 80, 0.3, 2], [10, 20, 30, 40, 0.9, 0], [10, 20, 30, 40, 0.7, 1], [0, 0, 0, 0, 0, 0], [0] * 6
    )
    check(head("nms", boxes="corners").detect((rows[None],), LOW)[0])


def test_nms_inside_as_four_outputs() -> None:
    outputs = ("num_dets", "det_boxes", "det_scores", "det_classes")
    nms = head("nms", boxes="corners", outputs=outputs)
    boxes = np.concatenate([WANTED_BOXES, WANTED_BOXES])[None]
    scores, classes = array([0.9, 0.7, 0.3, 0.9, 0.9, 0.9]), array([0, 1, 2, 0, 0, 0])
    count = np.array([[3]], np.float32)
    check(nms.detect((count, boxes, scores, classes), LOW)[0])
    assert set(nms.errors((count, boxes, scores, classes))) == {"scores"}


def test_images_of_a_batch_are_their_own() -> None:
    both = np.stack([YOLO_ROWS, np.zeros_like(YOLO_ROWS)])
    first, second = head("yolov8").detect((both,), LOW)
    check(first)
    assert len(second) == 0
    assert second.boxes.shape == (0, 4)


def test_work_is_bounded() -> None:
    """20,000 anchors that all find something: the likeliest alone go into NMS."""
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.uniform(10, 90, (20_000, 2)), np.full((20_000, 2), 1.0), np.zeros((20_000, 3))], axis=1)
    rows[:, 4] = rng.permutation(20_000) / 40_000 + 0.5
    limits = Limits(score=0.01, candidates=50, detections=20)
    (found,) = head("yolov8").detect((rows[None].astype(np.float32),), limits)
    assert len(found) == 20
    assert found.scores.min() >= 0.5 + (20_000 - 50) / 40_000 - 1e-6
    assert (np.diff(found.scores) <= 0).all()


def test_other_outputs_are_refused() -> None:
    with pytest.raises(EngineError, match=r"\[1, 5, 6\]"):
        head("yolov8").detect((YOLO_ROWS[None, :, :6],), LOW)
    with pytest.raises(EngineError):
        head("ssd", outputs=("a", "b")).detect((np.zeros((1, 5, 3)), np.zeros((1, 4, 4))), LOW)


def test_overlap() -> None:
    ours = array([0, 0, 10, 10], [0, 0, 0, 0])
    theirs = array([5, 0, 15, 10], [0, 0, 10, 10], [20, 20, 30, 30])
    np.testing.assert_allclose(overlap(ours, theirs), np.array([[1 / 3, 1, 0], [0, 0, 0]]))


def test_suppression_is_greedy_and_by_class() -> None:
    boxes = array([0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 6], [0, 0, 10, 10])
    found = Detections(boxes, array(0.9, 0.8, 0.7, 0.6), np.array([0, 0, 0, 1]))
    # IoU 0.8 with the first goes; 0.6 with the first stays, and the one that it overlaps by 0.75 is gone already
    assert suppress(found, 0.7, 10).scores.tolist() == pytest.approx([0.9, 0.7, 0.6])
    assert len(suppress(found, 0.7, 2)) == 2
