"""What INT8 finds beside what FP32 finds on the same images: how much is lost, how much is new, how far things moved.

Nothing here is accuracy: FP32 stands in for what is right. A detection is found again where the candidate has one of
the same class with an overlap of half or more, and with a score above the threshold as well; where objects have
keypoints, those must be half as near as can be (OKS) too. Numbers of different scales, boxes in pixels and scores in
0..1, have an error each, and never one together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray

from edgeq.artifact import LaterFields
from edgeq.errors import ImageError
from edgeq.model.heads.boxes import Detections, overlap
from edgeq.model.heads.detector import Head, Limits
from edgeq.quality.estimate import Ratio
from edgeq.quality.tasks.base import Headline, Outputs, Row, Tally, TaskFigures, UnlabelledTask, require_finite
from edgeq.quality.tasks.detection.similarity import AREA_OF_BOX, keypoint_similarity

__all__ = ["MAX_LOST", "SCORE", "Comparison", "FieldErrors", "FoundAgain", "FoundAgainTask"]

SCORE: Final = 0.25
"""What scores less is not shown to anybody: the threshold of Ultralytics' `predict`."""

MAX_LOST: Final = 0.03
"""The share of FP32's detections that may be lost where there are no labels."""

_OVERLAP: Final = 0.5
_LEAST: Final = Limits(score=0.001, detections=100)


class FoundAgain(LaterFields, TaskFigures):
    """A candidate's detections beside its reference's.

    Attributes:
        images: how many were looked at.
        threshold: scores above it count; below 0.25 where FP32 gives no such score: half of its largest one then.
        detections: of FP32.
        lost: share of them that the candidate does not find, 0..1; 0 where there is none.
        lost_standard_error: of `lost`, over images; None where it is not known.
        new: share of the candidate's that FP32 does not find.
        score_shift: mean change of the score of what both find, without sign; None where that is nothing.
        box_shift: mean distance of its corners' coordinates, in pixels.
        box_overlap: mean overlap (IoU) of its boxes.
        field_errors: ||candidate - FP32|| / ||FP32|| of each field of the outputs.
        keypoint_shift: mean distance of the keypoints of what both find, in pixels; None, and not written, without any.
        keypoint_similarity: mean OKS of it; likewise.
    """

    task: Literal["found-again"] = "found-again"
    version: Literal["edgeq.found-again/1"] = "edgeq.found-again/1"
    images: int
    threshold: float
    detections: int
    lost: float
    lost_standard_error: float | None
    new: float
    score_shift: float | None
    box_shift: float | None
    box_overlap: float | None
    field_errors: dict[str, float]
    keypoint_shift: float | None = None
    keypoint_similarity: float | None = None
    later: ClassVar[tuple[str, ...]] = ("keypoint_shift", "keypoint_similarity")

    @property
    def found_again(self) -> float:
        """Percent of FP32's detections."""
        return 100.0 * (1.0 - self.lost)

    def headline(self) -> Headline:
        """The share that is lost; where FP32 finds nothing, the error of the worst field."""
        found = self.detections > 0
        return Headline(
            name="detections lost" if found else "worst field's error",
            unit="of FP32's detections" if found else "of the length of the worst field",
            reference=None,
            candidate=None,
            drop=self.lost if found else max(self.field_errors.values()),
            standard_error=self.lost_standard_error if found else None,
            examples=self.images,
            labelled=False,
            alike="found again",
            agreement=self.found_again,
            allowed=MAX_LOST if found else None,
        )

    def rows(self) -> tuple[Row, ...]:
        """For a table."""
        name = self.headline().name
        doubt = "" if self.lost_standard_error is None else f" ± {100.0 * self.lost_standard_error:.2f}"
        first = f"{100.0 * self.lost:.2f}{doubt} %" if self.detections else f"{self.headline().drop:.4f}"
        return (
            (f"{name}, {self.images} images without labels", "", "", first),
            *self.details(),
        )

    def details(self) -> tuple[Row, ...]:
        """Rows beside another headline."""
        found = f"found again, of {self.detections} detections from {self.threshold:.2g} on"
        rows: list[Row] = [(found, "", "", f"{self.found_again:.2f} %, new {100.0 * self.new:.2f} %")]
        if self.score_shift is not None:
            moved = f"{self.box_shift:.2f} pixels, IoU {self.box_overlap:.4f}"
            rows += [("mean shift of a score", "", "", f"{self.score_shift:.4f}"), ("of a box", "", "", moved)]
        if self.keypoint_shift is not None:
            moved = f"{self.keypoint_shift:.2f} pixels, OKS {self.keypoint_similarity:.4f}"
            rows.append(("of a keypoint", "", "", moved))
        errors = ", ".join(f"{name} {error:.4f}" for name, error in self.field_errors.items())
        return (*rows, ("relative error by field", "", "", errors))


class FieldErrors:
    """Running sums of squares: of each field, and of its change."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}

    def add(self, reference: Mapping[str, NDArray[np.float32]], candidate: Mapping[str, NDArray[np.float32]]) -> None:
        """Take the fields of some images.

        Args:
            reference, candidate: the same fields, float32 [n, ...] each.
        """
        for name, ours in reference.items():
            exact = ours.astype(np.float64)
            change = float(np.square(candidate[name] - exact).sum())
            before = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = (before[0] + change, before[1] + float(np.square(exact).sum()))

    def errors(self) -> dict[str, float]:
        """||candidate - reference|| / ||reference|| by field."""
        least = float(np.finfo(np.float64).tiny)
        return {name: float(np.sqrt(change / max(size, least))) for name, (change, size) in self._sums.items()}


class Comparison:
    """Detections of both networks on the same images, as they come."""

    def __init__(self) -> None:
        self.fields = FieldErrors()
        self._pairs: list[tuple[Detections, Detections]] = []

    def add(self, reference: Detections, candidate: Detections) -> None:
        """Take one image, the likeliest detections first."""
        self._pairs.append((reference, candidate))

    def figures(self) -> FoundAgain:
        """What it comes to.

        Raises:
            ImageError: there was no image.
        """
        if not self._pairs:
            raise ImageError("no image could be judged")
        largest = max((float(ours.scores.max()) for ours, _ in self._pairs if len(ours)), default=0.0)
        threshold = SCORE if largest >= SCORE else largest / 2
        shown = [(ours.above(threshold), theirs.above(threshold)) for ours, theirs in self._pairs]
        lost, new, matched = Ratio(), Ratio(), []
        for ours, theirs in shown:
            same = _matched(ours, theirs)
            lost.add(len(ours) - len(same), len(ours))
            new.add(len(theirs) - len(same), len(theirs))
            matched.append(_shifts(ours, theirs, same))
        shifts = np.concatenate(matched)
        share = lost.estimate() if lost.items else None
        means: list[float | None] = [float(value) for value in shifts.mean(axis=0)] if len(shifts) else []
        means += [None] * (5 - len(means))
        return FoundAgain(
            images=len(shown),
            threshold=threshold,
            detections=int(lost.below),
            lost=share.value if share else 0.0,
            lost_standard_error=share.standard_error if share else None,
            new=new.estimate().value if new.items else 0.0,
            score_shift=means[0],
            box_shift=means[1],
            box_overlap=means[2],
            field_errors=self.fields.errors(),
            keypoint_shift=means[3],
            keypoint_similarity=means[4],
        )


def _matched(ours: Detections, theirs: Detections) -> list[tuple[int, int]]:
    """Pairs of the same class that overlap by half at least, keypoints too: the likeliest of ours choose first."""
    shares = overlap(ours.boxes, theirs.boxes)
    shares[ours.classes[:, None] != theirs.classes[None, :]] = 0.0
    if ours.keypoints is not None:
        first, second = np.nonzero(shares >= _OVERLAP)
        far = _similarity(ours.only(first), theirs.only(second)) < _OVERLAP
        shares[first[far], second[far]] = 0.0
    pairs = []
    for place in range(len(ours) if len(theirs) else 0):
        best = int(shares[place].argmax())
        if shares[place, best] >= _OVERLAP:
            pairs.append((place, best))
            shares[:, best] = 0.0
    return pairs


def _shifts(ours: Detections, theirs: Detections, pairs: Sequence[tuple[int, int]]) -> NDArray[np.float64]:
    """Change of the score, of the corners in pixels, and the overlap; of keypoints the distance and OKS.

    Returns:
        float64 [pairs, 3], or [pairs, 5] with keypoints.
    """
    if not pairs:
        return np.zeros((0, 3 if ours.keypoints is None else 5))
    first, second = (ours.only(np.array([a for a, _ in pairs])), theirs.only(np.array([b for _, b in pairs])))
    overlaps = np.diagonal(overlap(first.boxes, second.boxes))
    scores = np.abs(first.scores.astype(np.float64) - second.scores)
    boxes = np.abs(first.boxes.astype(np.float64) - second.boxes).mean(axis=1)
    if first.keypoints is None or second.keypoints is None:
        return np.stack([scores, boxes, overlaps], axis=1)
    distances = np.linalg.norm(first.keypoints[..., :2].astype(np.float64) - second.keypoints[..., :2], axis=-1)
    return np.stack([scores, boxes, overlaps, distances.mean(axis=1), _similarity(first, second)], axis=1)


def _similarity(ours: Detections, theirs: Detections) -> NDArray[np.float64]:
    """OKS of each pair, float64 [n]."""
    assert ours.keypoints is not None
    assert theirs.keypoints is not None
    sides = (ours.boxes[:, 2:] - ours.boxes[:, :2]).astype(np.float64).clip(min=0.0)
    return keypoint_similarity(ours.keypoints, theirs.keypoints, AREA_OF_BOX * sides.prod(axis=1))


class FoundAgainTask(UnlabelledTask):
    """A detector without labels.

    Args:
        head: of the network.
    """

    name = "found-again"
    what = "detections without labels, held beside those of FP32"
    figures: ClassVar[type[TaskFigures] | None] = FoundAgain
    batch: ClassVar[int] = 1
    latency_batches: ClassVar[tuple[int, ...]] = (1, 4)

    def __init__(self, head: Head) -> None:
        self._head = head

    def outputs(self, names: Sequence[str]) -> tuple[str, ...]:  # noqa: ARG002
        """Those that the head reads."""
        return self._head.outputs

    def fields(self, outputs: Outputs) -> Mapping[str, NDArray[np.float32]]:
        """Boxes and scores apart, float32 [n, ...] each."""
        return self._head.errors(outputs)

    def begin(self, names: Sequence[str] = ()) -> Tally:  # noqa: ARG002
        """Detections lost and new, shifts, an error for each field; boxes are in pixels of the network's input."""
        return _Tally(self._head)


class _Tally:
    """`Tally` of a detector's outputs."""

    def __init__(self, head: Head) -> None:
        self._head, self._comparison = head, Comparison()

    def add(self, names: Sequence[str], reference: Outputs, candidate: Outputs) -> None:  # noqa: ARG002
        require_finite(reference, candidate)
        self._comparison.fields.add(self._head.errors(reference), self._head.errors(candidate))
        found = (self._head.detect(outputs, _LEAST) for outputs in (reference, candidate))
        for ours, theirs in zip(*found, strict=True):
            self._comparison.add(ours, theirs)

    def figures(self) -> FoundAgain:
        return self._comparison.figures()
