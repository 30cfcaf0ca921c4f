"""A detector that tells keypoints: mAP by COCO's object keypoint similarity (OKS), beside mAP of the boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, cast

from edgeq.errors import InputError, ModelError
from edgeq.quality.tasks.base import Examples, Row, Tally, TaskFigures
from edgeq.quality.tasks.detection.objects import LabelledObjects, Objects
from edgeq.quality.tasks.detection.task import DetectionTask, Precision, PrecisionTally, gain_row

__all__ = ["KeypointTask", "Keypoints"]


class Keypoints(Precision):
    """What a candidate does to a reference's keypoints; percent and points. mAP is by OKS.

    Attributes:
        boxes_reference, boxes_candidate: mAP over overlaps of 0.50 to 0.95 of the boxes.
    """

    task: Literal["keypoints"] = "keypoints"
    version: Literal["edgeq.keypoints/1"] = "edgeq.keypoints/1"
    boxes_reference: float
    boxes_candidate: float
    measure: ClassVar[str] = "keypoint "

    def rows(self) -> tuple[Row, ...]:
        """For a table."""
        first, *others = super().rows()
        return first, gain_row("box mAP@50:95", self.boxes_reference, self.boxes_candidate), *others


class _Tally(PrecisionTally):
    def figures(self) -> Keypoints:
        boxes = self.ranked(0)
        ours, theirs = (100.0 * side.precision for side in boxes)
        return Keypoints(**self.measured(self._examples.keypoints), boxes_reference=ours, boxes_candidate=theirs)


class KeypointTask(DetectionTask):
    """Objects with a box, a class, and the same keypoints each."""

    name = "keypoints"
    what = "keypoints of objects, told by COCO's person_keypoints JSON or by a YOLO tree with a kpt_shape"
    figures: ClassVar[type[TaskFigures] | None] = Keypoints
    problem_type = "keypoint-detection"
    architectures: ClassVar[tuple[str, ...]] = ()
    exported_as: ClassVar[tuple[str, ...]] = ("pose",)
    keypoints: ClassVar[bool] = True
    judged_by: ClassVar[type[PrecisionTally]] = _Tally

    def tally(self, examples: Examples[Objects], labels: Sequence[str] | None, classes: int) -> Tally:
        """mAP by keypoints and its drop, mAP of the boxes; what is found again, and an error for each field."""
        head, told = self.head, cast(LabelledObjects, examples).keypoints
        if head is not None and head.keypoints is not None and head.keypoints.count != told:
            raise ModelError(
                f"the network gives {head.keypoints.count} keypoints for each object, the labelled set has {told}",
                expected="a set of the keypoints that it was trained on",
            )
        return super().tally(examples, labels, classes)

    def open(self, path: Path, labels: Sequence[str] | None) -> LabelledObjects:
        """Images with their objects."""
        found = super().open(path, labels)
        if not found.keypoints:
            raise InputError(
                f"{path} has no keypoints",
                expected="person_keypoints_*.json of COCO, or a data.yaml with kpt_shape",
                next_step="take another labelled set, or judge without labels",
            )
        return found
