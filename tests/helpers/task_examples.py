"""For every task a labelled set of twelve drawn pictures, and answers that are right, or wrong, for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from labels import LABELS
from numpy.typing import NDArray
from pictures import draw_pictures
from PIL import Image

from edgeq.model.heads.seen import Seen
from edgeq.model.images.preprocess import Preprocess
from edgeq.quality.tasks.base import Examples, ImageTask, Outputs
from edgeq.quality.tasks.detection.objects import LabelledObjects
from edgeq.quality.tasks.segmentation.masks import LabelledMasks

__all__ = ["SIDE", "fitted_task", "open_examples", "right_answers", "task_folder", "write_coco", "write_masks"]

SIDE = 20
"""Of a drawn picture, and of the networks' input, in pixels."""

BOX = (4.0, 5.0, 10.0, 8.0)
"""Left, top, width, height of the one object on each picture."""

KEYPOINT = (6.0, 7.0)
"""The one keypoint of each object."""

PREPROCESS = Preprocess(SIDE, SIDE, resize=(SIDE, SIDE), resample=2, center_crop=False, scale=1 / 255)
_ANCHORS = 30


def task_folder(folder: Path) -> Path:
    """12 pictures in three folders named after classes, one object on each; and 12 with masks."""
    write_coco(draw_pictures(folder / "pictures", each=4))
    write_masks(draw_pictures(folder / "masked" / "images", each=4))
    return folder


def open_examples(task: ImageTask[Any], folder: Path) -> Examples[Any]:
    """The 12 pictures of `task_folder` that a task can read."""
    return task.open(folder / ("masked" if task.name == "segmentation" else "pictures"), LABELS)


def write_masks(folder: Path) -> Path:
    """`masks` beside a folder of pictures: its class on the left, the next one on the right, one row of 255."""
    for file in sorted(folder.rglob("*.jpg")):
        own = LABELS.index(file.parent.name)
        values = np.full((SIDE, SIDE), (own + 1) % len(LABELS), np.uint8)
        values[:, : SIDE // 2] = own
        values[-1] = 255
        mask = folder.parent / "masks" / file.parent.name / f"{file.stem}.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(mask)
    return folder


def write_coco(folder: Path) -> Path:
    """`instances.json` beside pictures: an object of the folder's class on each."""
    files = sorted(folder.rglob("*.jpg"))
    categories = [{"id": 10 + number, "name": name} for number, name in enumerate(LABELS)]
    images, annotations = [], []
    for number, file in enumerate(files):
        with Image.open(file) as picture:
            width, height = picture.size
        name = file.relative_to(folder).as_posix()
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        category = 10 + LABELS.index(file.parent.name)
        told = {"id": number, "image_id": number, "category_id": category, "bbox": BOX, "iscrowd": 0}
        annotations.append({**told, "keypoints": [*KEYPOINT, 2]})
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))
    return folder


def fitted_task(task: ImageTask[Any]) -> ImageTask[Any]:
    """A task fitted to the networks of `right_answers`."""
    if not task.understands:
        return task
    return task.fitted(Seen({"output": _shape(task)}, SIDE, SIDE, LABELS), PREPROCESS)


def _shape(task: ImageTask[Any]) -> tuple[int | None, ...]:
    if task.name == "segmentation":
        return None, len(LABELS), SIDE // 2, SIDE // 2
    assert task.name in ("detection", "keypoints")
    return None, 4 + len(LABELS) + 3 * (task.name == "keypoints"), _ANCHORS


def right_answers(task: ImageTask[Any], examples: Examples[Any], *, sign: float = 1.0) -> Outputs:
    """What a right network gives, the less right the smaller `sign` is; features behind it where they are wanted."""
    if isinstance(examples, LabelledObjects):
        return (_boxes(examples, sign, keypoints=task.name == "keypoints"),)
    if isinstance(examples, LabelledMasks):
        return (_planes(examples, sign),)
    rng = np.random.default_rng(0)
    logits = rng.normal(-2.0, 0.1, (len(examples), len(LABELS))).astype(np.float32)
    for row, item in enumerate(examples.images.items):
        logits[row, LABELS.index(str(item.label))] += 4.0 * sign
    return (logits, logits) if task.features else (logits,)


def _boxes(examples: LabelledObjects, sign: float, *, keypoints: bool) -> NDArray[np.float32]:
    """A YOLOv8 head's output: the right box, of the right class unless `sign` is negative, further off below 1."""
    output = np.zeros((len(examples), 4 + len(LABELS) + 3 * keypoints, _ANCHORS), np.float32)
    if keypoints:
        output[:, -3:, :] = np.array([*KEYPOINT, 1.0], np.float32)[None, :, None]
    output[:, :4, :] = 1.0
    left, top, width, height = BOX
    for row, item in enumerate(examples.images.items):
        label = (LABELS.index(str(item.label)) + (sign < 0)) % len(LABELS)
        output[row, :4, 7] = left + width / 2 + (1.0 - max(sign, 0.5)), top + height / 2, width, height
        output[row, 4 + label, 7] = 0.9
    return output


def _planes(examples: LabelledMasks, sign: float) -> NDArray[np.float32]:
    """Scores at half the size: right up to the middle, a column less where `sign` is below 1, swapped below 0."""
    side = SIDE // 2
    output = np.zeros((len(examples), len(LABELS), side, side), np.float32)
    for row, item in enumerate(examples.images.items):
        own = LABELS.index(str(item.label))
        other = (own + 1) % len(LABELS)
        left, right = (own, other) if sign > 0 else (other, own)
        middle = side // 2 - (sign < 1)
        output[row, left, :, :middle] = output[row, right, :, middle:] = 4.0
    return output
