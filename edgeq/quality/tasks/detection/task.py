"""A detector: two networks on the same labelled images, by COCO's mAP and by what INT8 finds again of FP32's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, cast

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
from edgeq.quality.tasks.detection.precision import Ranked, measure_precision, paired_error, require_pycocotools
from edgeq.quality.tasks.detection.read import read_objects
from edgeq.quality.tasks.drawing import draw_boxes

__all__ = ["Detection", "DetectionTask"]

_JUDGED: Final = Limits(score=0.001, detections=100, every_class=True)
"""As mAP is measured: nearly everything is looked at, the likeliest 100 on an image."""


class Precision(TaskFigures):
    """What a candidate does to a reference's detections; percent and points.

    Attributes:
        images, objects: of the labelled set.
        map_reference, map_candidate: mAP over overlaps of 0.50 to 0.95.
        drop: map_reference - map_candidate.
        drop_standard_error: of `drop`, by the paired bootstrap over images; None for a single image.
        map50_reference, map50_candidate: mAP with an overlap of 0.50.
        found_again: what the candidate finds again of FP32's detections, whether those are right or not.
        measure: what is said of mAP where it is not that of boxes.
    """

    images: int
    objects: int
    map_reference: float
    map_candidate: float
    drop: float
    drop_standard_error: float | None
    map50_reference: float
    map50_candidate: float
    found_again: FoundAgain
    measure: ClassVar[str] = ""

    def headline(self) -> Headline:
        """mAP over overlaps of 0.50 to 0.95."""
        return Headline(
            name=f"{self.measure}mAP@50:95",
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
        headline = self.headline()
        return (
            headline.row(f"{headline.name}, {self.objects} objects on {self.images} images"),
            gain_row(f"{self.measure}mAP@50", self.map50_reference, self.map50_candidate),
            *self.found_again.details(),
        )


class Detection(Precision):
    """What a candidate does to a reference's boxes."""

    task: Literal["detection"] = "detection"
    version: Literal["edgeq.detection/1"] = "edgeq.detection/1"


def gain_row(what: str, reference: float, candidate: float) -> Row:
    """A figure beside the headline, for a table.

    Args:
        what: it is.
        reference, candidate: FP32's value and the candidate's, in percent.
    """
    return what, f"{reference:.2f} %", f"{candidate:.2f} %", f"{candidate - reference:+.2f} points"


class PrecisionTally:
    """`Tally` of a detector's outputs on labelled images; the detections of both networks are kept.

    Args:
        head: of the networks.
        preprocess: from an image to their input.
        examples: that will be shown.
        numbers: the model's class for each category, int64 [categories]; -1 for none.
    """

    def __init__(
        self, head: Head, preprocess: Preprocess, examples: LabelledObjects, numbers: NDArray[np.int64]
    ) -> None:
        self._head, self._preprocess, self._examples = head, preprocess, examples
        self._category = {int(number): category for category, number in enumerate(numbers) if number >= 0}
        self._comparison = Comparison()
        self._truth: list[Objects] = []
        self._found: tuple[list[Detections], list[Detections]] = ([], [])

    def add(self, names: Sequence[str], reference: Outputs, candidate: Outputs) -> None:
        """Take what both networks gave for the same images."""
        require_finite(reference, candidate)
        self._comparison.fields.add(self._head.errors(reference), self._head.errors(candidate))
        found = (self._head.detect(outputs, _JUDGED) for outputs in (reference, candidate))
        for name, ours, theirs in zip(names, *found, strict=True):
            objects = self._examples.truth[name]
            placement = Placement.of(self._preprocess, objects.width, objects.height)
            placed = [one.in_image(placement) for one in (ours, theirs)]
            self._comparison.add(*placed)
            self._truth.append(objects)
            for side, one in zip(self._found, placed, strict=True):
                side.append(self._in_categories(one))

    def figures(self) -> Precision:
        """By boxes."""
        return Detection(**self.measured())

    def measured(self, keypoints: int = 0) -> dict[str, Any]:
        """The fields of `Precision`.

        Args:
            keypoints: of each object, by which detections are matched; 0 matches them by their boxes.

        Raises:
            ImageError: there is no object on the images.
        """
        objects = sum(int(one.counted(by_keypoints=True).sum()) if keypoints else len(one) for one in self._truth)
        if not objects:
            raise ImageError("no labelled image could be judged", expected="an object on one of them at least")
        ours, theirs = self.ranked(keypoints)
        error = paired_error(ours, theirs, len(self._truth))
        return {
            "images": len(self._truth),
            "objects": objects,
            "map_reference": 100.0 * ours.precision,
            "map_candidate": 100.0 * theirs.precision,
            "drop": 100.0 * (ours.precision - theirs.precision),
            "drop_standard_error": None if error is None else 100.0 * error,
            "map50_reference": 100.0 * ours.precision50,
            "map50_candidate": 100.0 * theirs.precision50,
            "found_again": self._comparison.figures(),
        }

    def ranked(self, keypoints: int) -> tuple[Ranked, Ranked]:
        """Both networks' detections, matched by keypoints or, where there are 0, by boxes."""
        categories = len(self._examples.categories)
        ours, theirs = (measure_precision(self._truth, side, categories, keypoints=keypoints) for side in self._found)
        return ours, theirs

    def _in_categories(self, found: Detections) -> Detections:
        """Those of the set's categories, with their numbers: of other classes the set says nothing."""
        numbers = np.array([self._category.get(int(number), -1) for number in found.classes], np.int64)
        there = numbers >= 0
        return replace(found.only(there), classes=numbers[there])


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
    exported_as: ClassVar[tuple[str, ...]] = ("detect", "segment")
    understands: ClassVar[bool] = True
    served_as = "detect"
    draws: ClassVar[bool] = True
    batch: ClassVar[int] = 4
    latency_batches: ClassVar[tuple[int, ...]] = (1, 4)
    keypoints: ClassVar[bool] = False
    """Of each object are told, and decide."""
    judged_by: ClassVar[type[PrecisionTally]] = PrecisionTally

    def __init__(self, head: Head | None = None, preprocess: Preprocess | None = None) -> None:
        self._head, self._preprocess = head, preprocess

    @property
    def head(self) -> Head | None:
        """Of the network; None until the task is fitted to one."""
        return self._head

    def fitted(self, seen: Seen, preprocess: Preprocess, head: str | None = None) -> DetectionTask:
        """With the head that the outputs have."""
        return type(self)(recognise_head(seen, head, keypoints=self.keypoints), preprocess)

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
        return draw_boxes(image, found.in_image(Placement.of(self._preprocess, *image.size)), labels)

    def record(self, directory: Path) -> None:
        """Write `detector.json`."""
        if self._head is not None:
            DetectorSettings(head=self._head).save(directory / DETECTOR)

    def recorded_in(self, directory: Path, preprocess: Preprocess) -> DetectionTask | None:
        """With the head of `detector.json`."""
        if not (directory / DETECTOR).is_file():
            return None
        head = DetectorSettings.load(directory / DETECTOR).head
        return None if (head.keypoints is not None) != self.keypoints else type(self)(head, preprocess)

    def open(self, path: Path, labels: Sequence[str] | None) -> LabelledObjects:
        """Images with their objects."""
        require_pycocotools()
        return read_objects(path, labels)

    def tally(self, examples: Examples[Objects], labels: Sequence[str] | None, classes: int) -> Tally:  # noqa: ARG002
        """mAP and its drop; what is found again, and an error for each field of the outputs."""
        if self._head is None or self._preprocess is None:
            raise ModelError("how the detector's outputs are read is not known", next_step="fit the task to it")
        set_ = cast(LabelledObjects, examples)
        last = self._head.first_class + self._head.classes
        return self.judged_by(self._head, self._preprocess, set_, set_.numbers(labels, last))
