"""A detector: two networks on the same labelled images, by COCO's mAP and by what INT8 finds again of FP32's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final, Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeq.errors import ImageError, ModelError
from edgeq.model.heads.boxes import Detections
from edgeq.model.heads.detector import Head, Limits
from edgeq.model.heads.recognise import recognise_head
from edgeq.model.heads.seen import Seen
from edgeq.model.heads.settings import DETECTOR, DetectorSettings
from edgeq.model.images.placement import Placement
from edgeq.model.images.preprocess import Preprocess
from edgeq.quality.tasks.base import (
    Examples,
    Headline,
    ImageTask,
    Outputs,
    Row,
    Tally,
    TaskFigures,
    UnlabelledTask,
    require_finite,
)
from edgeq.quality.tasks.detection.found_again import Comparison, FoundAgain, FoundAgainTask
from edgeq.quality.tasks.detection.objects import LabelledObjects, Objects
from edgeq.quality.tasks.detection.precision import measure_precision, paired_error, require_pycocotools
from edgeq.quality.tasks.detection.read import read_objects
from edgeq.quality.tasks.drawing import draw_boxes

__all__ = ["Detection", "DetectionTask"]

_JUDGED: Final = Limits(score=0.001, detections=100, every_class=True)
"""As mAP is measured: nearly everything is looked at, the likeliest 100 on an image."""


class Detection(TaskFigures):
    """What a candidate does to a reference's detections; percent and points.

    Attributes:
        images, objects: of the labelled set.
        map_reference, map_candidate: mAP over overlaps of 0.50 to 0.95.
        drop: map_reference - map_candidate.
        drop_standard_error: of `drop`, by the paired bootstrap over images; None for a single image.
        map50_reference, map50_candidate: mAP with an overlap of 0.50.
        found_again: what the candidate finds again of FP32's detections, whether those are right or not.
    """

    task: Literal["detection"] = "detection"
    version: Literal["edgeq.detection/1"] = "edgeq.detection/1"
    images: int
    objects: int
    map_reference: float
    map_candidate: float
    drop: float
    drop_standard_error: float | None
    map50_reference: float
    map50_candidate: float
    found_again: FoundAgain

    def headline(self) -> Headline:
        """mAP over overlaps of 0.50 to 0.95."""
        return Headline(
            name="mAP@50:95",
            unit="points",
            reference=self.map_reference,
            candidate=self.map_candidate,
            drop=self.drop,
            standard_error=self.drop_standard_error,
            examples=self.images,
            labelled=True,
            alike="found again",
            agreement=self.found_again.found_again,
        )

    def rows(self) -> tuple[Row, ...]:
        """For a table."""
        change50 = f"{self.map50_candidate - self.map50_reference:+.2f} points"
        counted = f"mAP@50:95, {self.objects} objects on {self.images} images"
        return (
            self.headline().row(counted),
            ("mAP@50", f"{self.map50_reference:.2f} %", f"{self.map50_candidate:.2f} %", change50),
            *self.found_again.details(),
        )


class DetectionTask(ImageTask[Objects]):
    """Objects with a box and a class each.

    Args:
        head: of the network; None until the task is fitted to one.
        preprocess: from an image to its input; None likewise.
    """

    name = "detection"
    what = "boxes and classes of objects, told by COCO's JSON or by a YOLO tree"
    figures: ClassVar[type[TaskFigures] | None] = Detection
    problem_type = "object-detection"
    architectures: ClassVar[tuple[str, ...]] = ("ForObjectDetection",)
    exported_as = "detect"
    understands: ClassVar[bool] = True
    served_as = "detect"
    draws: ClassVar[bool] = True
    batch: ClassVar[int] = 4
    latency_batches: ClassVar[tuple[int, ...]] = (1, 4)

    def __init__(self, head: Head | None = None, preprocess: Preprocess | None = None) -> None:
        self._head, self._preprocess = head, preprocess

    def fitted(self, seen: Seen, preprocess: Preprocess, head: str | None = None) -> DetectionTask:
        """With the head that the outputs have."""
        return DetectionTask(recognise_head(seen, head), preprocess)

    def unlabelled(self) -> UnlabelledTask | None:
        """What is found again."""
        return None if self._head is None else FoundAgainTask(self._head)

    def outputs(self, names: Sequence[str]) -> tuple[str, ...]:
        """Those that the head reads; all of them until it is known."""
        return tuple(names) if self._head is None else self._head.outputs

    def fields(self, outputs: Outputs) -> Mapping[str, NDArray[np.float32]]:
        """Boxes and scores apart, float32 [n, ...] each."""
        return super().fields(outputs) if self._head is None else self._head.errors(outputs)

    def drawn(self, image: Image.Image, outputs: Outputs, labels: Sequence[str]) -> Image.Image:
        """Boxes of what scores 0.25 and more."""
        if self._head is None or self._preprocess is None:
            return image
        (found,) = self._head.detect(outputs, Limits())
        placed = Placement.of(self._preprocess, *image.size).boxes(found.boxes)
        return draw_boxes(image, Detections(placed, found.scores, found.classes), labels)

    def record(self, directory: Path) -> None:
        """Write `detector.json`."""
        if self._head is not None:
            DetectorSettings(head=self._head).save(directory / DETECTOR)

    def recorded_in(self, directory: Path, preprocess: Preprocess) -> DetectionTask | None:
        """With the head of `detector.json`."""
        if not (directory / DETECTOR).is_file():
            return None
        return DetectionTask(DetectorSettings.load(directory / DETECTOR).head, preprocess)

    def open(self, path: Path, labels: Sequence[str] | None) -> LabelledObjects:
        """Images with their objects."""
        require_pycocotools()
        return read_objects(path, labels)

    def tally(self, examples: Examples[Objects], labels: Sequence[str] | None, classes: int) -> Tally:  # noqa: ARG002
        """mAP and its drop; what is found again, and an error for each field of the outputs."""
        if self._head is None or self._preprocess is None:
            raise ModelError("nobody has said how the detector's outputs are read", next_step="fit the task to it")
        set_ = cast(LabelledObjects, examples)
        last = self._head.first_class + self._head.classes
        return _Tally(self._head, self._preprocess, set_, set_.numbers(labels, last))


class _Tally:
    """`Tally` of a detector's outputs on labelled images; the detections of both networks are kept."""

    def __init__(
        self, head: Head, preprocess: Preprocess, examples: LabelledObjects, numbers: NDArray[np.int64]
    ) -> None:
        self._head, self._preprocess, self._examples = head, preprocess, examples
        self._category = {int(number): category for category, number in enumerate(numbers) if number >= 0}
        self._comparison = Comparison()
        self._truth: list[Objects] = []
        self._found: tuple[list[Detections], list[Detections]] = ([], [])

    def add(self, names: Sequence[str], reference: Outputs, candidate: Outputs) -> None:
        require_finite(reference, candidate)
        self._comparison.fields.add(self._head.errors(reference), self._head.errors(candidate))
        found = (self._head.detect(outputs, _JUDGED) for outputs in (reference, candidate))
        for name, ours, theirs in zip(names, *found, strict=True):
            objects = self._examples.truth[name]
            placement = Placement.of(self._preprocess, objects.width, objects.height)
            placed = [Detections(placement.boxes(one.boxes), one.scores, one.classes) for one in (ours, theirs)]
            self._comparison.add(*placed)
            self._truth.append(objects)
            for side, one in zip(self._found, placed, strict=True):
                side.append(self._in_categories(one))

    def figures(self) -> Detection:
        objects = sum(map(len, self._truth))
        if not objects:
            raise ImageError("no labelled image could be judged", expected="an object on one of them at least")
        categories = len(self._examples.categories)
        ours, theirs = (measure_precision(self._truth, side, categories) for side in self._found)
        error = paired_error(ours, theirs, len(self._truth))
        return Detection(
            images=len(self._truth),
            objects=objects,
            map_reference=100.0 * ours.precision,
            map_candidate=100.0 * theirs.precision,
            drop=100.0 * (ours.precision - theirs.precision),
            drop_standard_error=None if error is None else 100.0 * error,
            map50_reference=100.0 * ours.precision50,
            map50_candidate=100.0 * theirs.precision50,
            found_again=self._comparison.figures(),
        )

    def _in_categories(self, found: Detections) -> Detections:
        """Those of the set's categories, with their numbers: of other classes the set says nothing."""
        numbers = np.array([self._category.get(int(number), -1) for number in found.classes], np.int64)
        there = numbers >= 0
        return Detections(found.boxes[there], found.scores[there], numbers[there])
