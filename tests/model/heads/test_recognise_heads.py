"""Which head it is, from what is seen of it; what cannot be told is refused with the outputs named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeq.errors import ModelError
from edgeq.model.heads.detector import Head
from edgeq.model.heads.recognise import recognise_head
from edgeq.model.heads.seen import Seen, class_names, ultralytics_task

COCO = tuple(f"class {index}" for index in range(80))
THREE = ("bolt", "crack", "rust")


def seen(shapes: Mapping[str, Sequence[int | None]], labels: Sequence[str] | None = None, **more: Any) -> Seen:
    return Seen({name: tuple(shape) for name, shape in shapes.items()}, 640, 640, labels, **more)


def given(values: Mapping[str, NDArray[np.float32]], labels: Sequence[str] | None = None) -> Seen:
    return seen({name: value.shape for name, value in values.items()}, labels, values=values)


@pytest.mark.parametrize(
    ("shapes", "labels", "kind", "anchors_last", "classes"),
    [
        ({"output0": (None, 84, 8400)}, COCO, "yolov8", True, 80),
        ({"output0": (1, 8400, 84)}, COCO, "yolov8", False, 80),
        ({"output0": (1, 25200, 85)}, COCO, "yolov5", False, 80),
        ({"output": (1, 85, 25200)}, COCO, "yolov5", True, 80),
        ({"output0": (None, 84, None)}, None, "yolov8", True, 80),
        ({"output0": (None, None, 85)}, None, "yolov5", False, 80),
        ({"output0": (1, 7, 8400)}, THREE, "yolov8", True, 3),
        ({"output0": (1, 8, 8400)}, THREE, "yolov5", True, 3),
        ({"output0": (1, 25200, 6)}, ("face",), "yolov5", False, 1),
        ({"output0": (1, 5, 8400)}, ("face",), "yolov8", True, 1),
    ],
)
def test_yolo(
    shapes: Mapping[str, Any], labels: Sequence[str] | None, kind: str, anchors_last: bool, classes: int
) -> None:
    head = recognise_head(seen(shapes, labels))
    assert (head.kind, head.anchors_last, head.classes) == (kind, anchors_last, classes)
    assert (head.boxes, head.unit, head.scores) == ("centre", "pixels", "done")


def test_ultralytics_metadata_names_the_classes() -> None:
    metadata = {"names": "{0: 'bolt', 1: 'crack', 2: 'rust'}", "stride": "32", "task": "detect"}
    assert class_names(metadata) == THREE
    assert ultralytics_task(metadata) == "detect"
    assert ultralytics_task({}) is None
    head = recognise_head(seen({"output0": (None, 8, 8400)}, metadata=metadata))
    assert (head.kind, head.classes) == ("yolov5", 3)
    assert recognise_head(seen({"output0": (None, 7, 8400)}, metadata=metadata)).kind == "yolov8"


@pytest.mark.parametrize("text", ["", "{", "{1: 'a'}", "__import__('os')", "{'a': 1}", "[" * 9999, "{}", "3"])
def test_other_metadata_names_none(text: str) -> None:
    assert class_names({"names": text}) is None


@pytest.mark.parametrize(
    ("shapes", "labels"),
    [
        ({"output0": (1, 300, 6)}, COCO),
        ({"output0": (None, 300, 6)}, None),
        ({"num_dets": (1, 1), "det_boxes": (1, 100, 4), "det_scores": (1, 100), "det_classes": (1, 100)}, COCO),
        (
            {
                "detection_boxes": (1, 100, 4),
                "detection_classes": (1, 100),
                "num_detections": (1,),
                "detection_scores": (1, 100),
            },
            None,
        ),
    ],
)
def test_nms_inside(shapes: Mapping[str, Any], labels: Sequence[str] | None) -> None:
    head = recognise_head(seen(shapes, labels))
    assert (head.kind, head.boxes, head.scores) == ("nms", "corners", "done")
    if len(head.outputs) == 4:
        words = [name.split("_")[-1] for name in head.outputs]
        assert words[1:] == ["boxes", "scores", "classes"]


def test_two_classes_are_not_taken_for_nms() -> None:
    rows = np.concatenate([np.full((1, 900, 4), 50.0), np.full((1, 900, 2), 0.3)], axis=2).astype(np.float32)
    assert recognise_head(given({"out": rows}, ("a", "b"))).kind == "yolov8"
    rows[..., 5] = 1.0
    assert recognise_head(given({"out": rows}, ("a", "b"))).kind == "nms"


def test_ssd_by_values() -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 0.5, (1, 40, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.05, 0.5, (1, 40, 2))], axis=2).astype(np.float32)
    scores = rng.dirichlet(np.ones(4), (1, 40)).astype(np.float32)
    head = recognise_head(given({"boxes": boxes, "scores": scores}, THREE))
    assert head.outputs == ("scores", "boxes")
    assert (head.kind, head.classes, head.background, head.first_class) == ("ssd", 3, "first", 0)
    assert (head.boxes, head.unit, head.scores) == ("corners", "shares", "done")
    named = recognise_head(given({"boxes": boxes, "scores": scores}, ("background", *THREE)))
    assert (named.classes, named.background, named.first_class) == (3, "first", 1)
    assert recognise_head(given({"boxes": boxes, "scores": np.log(scores)}, THREE)).scores == "softmax"
    assert recognise_head(given({"boxes": boxes, "scores": scores})).background == "first"  # they sum to 1
    centre = np.concatenate([boxes[..., :2] + 0.3, 0.1 * boxes[..., 2:]], axis=2)
    head = recognise_head(given({"boxes": 640 * centre, "scores": np.log(scores[..., :3])}, THREE))
    assert (head.boxes, head.unit, head.scores, head.background) == ("centre", "pixels", "sigmoid", "none")


def test_detr_by_the_number_of_classes() -> None:
    outputs = {"logits": (1, 100, 92), "pred_boxes": (1, 100, 4), "last_hidden_state": (1, 100, 256)}
    head = recognise_head(seen(outputs, tuple(map(str, range(91)))))
    assert (head.kind, head.outputs, head.scores, head.background) == (
        "detr",
        ("logits", "pred_boxes"),
        "softmax",
        "last",
    )
    sigmoid = recognise_head(seen({"logits": (1, 300, 80), "pred_boxes": (1, 300, 4)}, COCO))
    assert (sigmoid.scores, sigmoid.background, sigmoid.unit) == ("sigmoid", "none", "shares")
    with pytest.raises(ModelError, match="the number of its classes is not known"):
        recognise_head(seen({"logits": (1, 300, 80), "pred_boxes": (1, 300, 4)}))


def test_values_tell_logits_and_shares() -> None:
    rng = np.random.default_rng(1)
    output = np.concatenate([rng.uniform(0, 1, (1, 4, 50)), rng.normal(0, 3, (1, 3, 50))], axis=1).astype(np.float32)
    head = recognise_head(given({"output0": output}, THREE))
    assert (head.unit, head.scores) == ("shares", "sigmoid")


@pytest.mark.parametrize(
    ("shapes", "labels"),
    [
        ({"a": (1, 1000)}, None),
        ({"p3": (1, 255, 80, 80), "p4": (1, 255, 40, 40), "p5": (1, 255, 20, 20)}, COCO),
        ({"output0": (1, 84, 8400)}, THREE),
        ({"scores": (1, 100, 7), "boxes": (1, 100, 4)}, THREE),
        ({"boxes": (100, 4), "labels": (100,), "scores": (100,)}, None),
        ({"output0": (1, None, None)}, None),
    ],
)
def test_what_is_not_known_is_refused_with_its_outputs(shapes: Mapping[str, Any], labels: Any) -> None:
    with pytest.raises(ModelError) as caught:
        recognise_head(seen(shapes, labels))
    assert all(name in caught.value.what for name in shapes)


def test_what_is_said_must_fit() -> None:
    assert recognise_head(seen({"x": (1, 84, 8400)}), "yolov5").kind == "yolov5"
    with pytest.raises(ModelError, match="a detr head does not have these outputs"):
        recognise_head(seen({"x": (1, 84, 8400)}), "detr")
    with pytest.raises(ModelError, match="no detector head tea"):
        recognise_head(seen({"x": (1, 84, 8400)}), "tea")


def test_a_head_is_read_back_as_it_was_written() -> None:
    head = recognise_head(seen({"output0": (None, 84, 8400)}, COCO))
    assert Head.model_validate_json(head.model_dump_json()) == head


def test_instance_masks_leave_their_coefficients_behind_the_scores() -> None:
    """YOLOv8-seg: 32 numbers of each anchor weigh the 32 planes of the other output."""
    metadata = {"names": "{0: 'bolt', 1: 'crack', 2: 'rust'}", "task": "segment"}
    shapes = {"output0": (None, 4 + 3 + 32, 8400), "output1": (None, 32, 160, 160)}
    head = recognise_head(seen(shapes, metadata=metadata))
    assert (head.kind, head.outputs, head.classes, head.coefficients) == ("yolov8", ("output0",), 3, 32)
    after = recognise_head(seen({**shapes, "output0": (None, 300, 38)}, metadata=metadata))
    assert (after.kind, after.coefficients) == ("nms", 32)
    rows = np.zeros((2, 39, 50), np.float32)
    fields = head.fields([rows])
    assert {name: field.shape[2:] for name, field in fields.items()} == {
        "boxes": (4,),
        "scores": (3,),
        "coefficients": (32,),
    }
    assert "keypoints" not in head.model_dump()
    with pytest.raises(ModelError, match=r"output0 \[\?, 39, 8400\], output1 \[\?, 16, 160, 160\]"):
        recognise_head(seen({**shapes, "output1": (None, 16, 160, 160)}, metadata=metadata))
