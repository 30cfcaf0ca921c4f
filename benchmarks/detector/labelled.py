"""Drawn scenes as a labelled set on disk, and a network's answers held against it and against FP32's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.detector.scenes import LABELS, SIDE, Boxes, draw_scenes
from edgeq.files import new_directory
from edgeq.model.heads.detector import Head
from edgeq.model.images.preprocess_config import read_preprocess
from edgeq.quality.tasks.detection.task import Detection, DetectionTask

__all__ = ["PREPROCESSING", "Outputs", "coco", "compare", "write_scenes"]

Outputs = NDArray[np.float32]
"""[n, 4 + classes, A]: what the network gives for n images."""

PREPROCESSING: Final[dict[str, Any]] = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": False,
    "size": {"height": SIDE, "width": SIDE},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": False,
}

_ANNOTATIONS: Final = "annotations.json"
_HEAD: Final = Head(
    kind="yolov8",
    outputs=("detections",),
    classes=len(LABELS),
    height=SIDE,
    width=SIDE,
    anchors_last=True,
    boxes="centre",
    unit="pixels",
    scores="done",
)


def write_scenes(folder: Path, seed: int, count: int, workers: int = 1) -> None:
    """Make a folder of PNG files, in the order of their seeds, with the boxes as COCO has them."""
    scenes = draw_scenes(seed, count, workers)
    names = [f"{index:05d}.png" for index in range(count)]
    with new_directory(folder) as made:
        for name, pixels in zip(names, scenes.pixels, strict=True):
            Image.fromarray(pixels).save(made / name, compress_level=1)
        (made / _ANNOTATIONS).write_text(json.dumps(coco(names, scenes.boxes)))


def compare(folder: Path, reference: Outputs, candidate: Outputs) -> Detection:
    """A network beside FP32: mAP by pycocotools, and detections found again.

    Args:
        folder: made by `write_scenes`.
        reference: FP32's answers to its images in order.
        candidate: the other network's.
    """
    task = DetectionTask(_HEAD, read_preprocess(PREPROCESSING))
    examples = task.open(folder, LABELS)
    tally = task.tally(examples, LABELS, len(LABELS))
    tally.add([item.name for item in examples.images.items], (reference,), (candidate,))
    figures = tally.figures()
    assert isinstance(figures, Detection)
    return figures


def coco(names: Sequence[str], boxes: Sequence[Boxes]) -> dict[str, Any]:
    """COCO's JSON: file names and boxes of the same images."""
    rows = [(image, box) for image, found in enumerate(boxes) for box in found]
    return {
        "images": [{"id": image, "file_name": name, "width": SIDE, "height": SIDE} for image, name in enumerate(names)],
        "categories": [{"id": index, "name": name} for index, name in enumerate(LABELS)],
        "annotations": [
            {"id": index, "image_id": image, "category_id": int(box[0]), "bbox": _sides(box)}
            for index, (image, box) in enumerate(rows, start=1)
        ],
    }


def _sides(box: NDArray[np.float32]) -> list[float]:
    """Left, top, width and height."""
    _, left, top, right, bottom = map(float, box)
    return [left, top, right - left, bottom - top]
