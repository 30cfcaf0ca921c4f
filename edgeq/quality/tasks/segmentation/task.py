"""A class for each pixel: two networks on the same images with masks, by mIoU; without masks, beside FP32's classes.

Pixels are those of the network's input: a mask is brought there as its image is, each pixel by the one that it shows,
and the scores by bilinear interpolation. mIoU is the mean over the classes that occur in the masks; classes are counted
over all images together.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final, Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeq.errors import ImageError, ModelError
from edgeq.model.heads.masks import MaskHead, recognise_masks
from edgeq.model.heads.seen import Seen
from edgeq.model.heads.settings import SEGMENTER, SegmenterSettings
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
from edgeq.quality.tasks.drawing import draw_classes
from edgeq.quality.tasks.segmentation.counts import PixelCounts, paired_error
from edgeq.quality.tasks.segmentation.masks import IGNORED, LabelledMasks, Mask, check_classes, read_masks

__all__ = ["MAX_CHANGED", "SamePixels", "Segmentation", "SegmentationTask"]

MAX_CHANGED: Final = 0.03
"""The share of pixels that may be of another class than FP32's where there are no masks."""


class SamePixels(TaskFigures):
    """A candidate's classes beside its reference's, where nobody has said what is right.

    Attributes:
        images: how many were looked at.
        same: percent of pixels that are of the same class.
        mean_iou: of the candidate, with FP32's classes in the place of what is right, in percent.
    """

    task: Literal["same-pixels"] = "same-pixels"
    version: Literal["edgeq.same-pixels/1"] = "edgeq.same-pixels/1"
    images: int
    same: float
    mean_iou: float

    def headline(self) -> Headline:
        """The share of pixels that are of another class."""
        return Headline(
            name="pixels of another class",
            unit="of the pixels",
            reference=None,
            candidate=None,
            drop=1.0 - self.same / 100.0,
            standard_error=None,
            examples=self.images,
            labelled=False,
            alike="pixels of the same class",
            agreement=self.same,
            allowed=MAX_CHANGED,
        )

    def rows(self) -> tuple[Row, ...]:
        """For a table."""
        changed = f"{100.0 - self.same:.3f} %"
        return (
            (f"pixels of another class, {self.images} images without masks", "", "", changed),
            ("pixels of the same class", "", "", f"{self.same:.3f} %"),
            ("mIoU against FP32's classes", "", "", f"{self.mean_iou:.2f} %"),
        )


class Segmentation(TaskFigures):
    """What a candidate does to a reference's classes; percent and points.

    Attributes:
        images: with masks.
        classes: that occur in them.
        miou_reference, miou_candidate: mean intersection over union.
        drop: miou_reference - miou_candidate.
        drop_standard_error: of `drop`, by the paired bootstrap over images; None for a single image.
        accuracy_reference, accuracy_candidate: pixels that are right.
        same: pixels to which both give the same class.
    """

    task: Literal["segmentation"] = "segmentation"
    version: Literal["edgeq.segmentation/1"] = "edgeq.segmentation/1"
    images: int
    classes: int
    miou_reference: float
    miou_candidate: float
    drop: float
    drop_standard_error: float | None
    accuracy_reference: float
    accuracy_candidate: float
    same: float

    def headline(self) -> Headline:
        """mIoU."""
        return Headline(
            name="mIoU",
            unit="points",
            reference=self.miou_reference,
            candidate=self.miou_candidate,
            drop=self.drop,
            standard_error=self.drop_standard_error,
            examples=self.images,
            labelled=True,
            alike="pixels of the same class",
            agreement=self.same,
        )

    def rows(self) -> tuple[Row, ...]:
        """For a table."""
        ours, theirs = self.accuracy_reference, self.accuracy_candidate
        return (
            self.headline().row(f"mIoU, {self.classes} classes on {self.images} images"),
            ("pixels that are right", f"{ours:.2f} %", f"{theirs:.2f} %", f"{theirs - ours:+.2f} points"),
            ("pixels of the same class", "", "", f"{self.same:.3f} %"),
        )


class SegmentationTask(ImageTask[Mask]):
    """A class for each pixel.

    Args:
        head: of the network; None until the task is fitted to one.
        preprocess: from an image to its input; None likewise.
    """

    name = "segmentation"
    what = "a class for each pixel, told by PNG masks with the names of their images"
    figures: ClassVar[type[TaskFigures] | None] = Segmentation
    problem_type = "image-segmentation"
    architectures: ClassVar[tuple[str, ...]] = ("ForSemanticSegmentation",)
    understands: ClassVar[bool] = True
    served_as = "segment"
    draws: ClassVar[bool] = True
    batch: ClassVar[int] = 4
    latency_batches: ClassVar[tuple[int, ...]] = (1, 4)

    def __init__(self, head: MaskHead | None = None, preprocess: Preprocess | None = None) -> None:
        self._head, self._preprocess = head, preprocess

    def fitted(self, seen: Seen, preprocess: Preprocess, head: str | None = None) -> SegmentationTask:
        """With the output that gives each pixel a class."""
        super().fitted(seen, preprocess, head)
        return SegmentationTask(recognise_masks(seen), preprocess)

    def unlabelled(self) -> UnlabelledTask | None:
        """Pixels of the same class."""
        return None if self._head is None else SamePixelsTask(self._head)

    def outputs(self, names: Sequence[str]) -> tuple[str, ...]:
        """The one that gives each pixel a class; the first until that is known."""
        return tuple(names[:1]) if self._head is None else (self._head.output,)

    def drawn(self, image: Image.Image, outputs: Outputs, labels: Sequence[str]) -> Image.Image:  # noqa: ARG002
        """A colour for each class."""
        if self._head is None or self._preprocess is None:
            return image
        (found,) = self._head.class_maps(outputs[0])
        rows, columns = Placement.of(self._preprocess, *image.size).from_image(*found.shape)
        return draw_classes(image, found[rows][:, columns])

    def record(self, directory: Path) -> None:
        """Write `segmenter.json`."""
        if self._head is not None:
            SegmenterSettings(head=self._head).save(directory / SEGMENTER)

    def recorded_in(self, directory: Path, preprocess: Preprocess) -> SegmentationTask | None:
        """With the head of `segmenter.json`."""
        if not (directory / SEGMENTER).is_file():
            return None
        return SegmentationTask(SegmenterSettings.load(directory / SEGMENTER).head, preprocess)

    def open(self, path: Path, labels: Sequence[str] | None) -> LabelledMasks:
        """Images with their masks."""
        return read_masks(path, None if labels is None or len(labels) <= 2 else len(labels))

    def tally(self, examples: Examples[Mask], labels: Sequence[str] | None, classes: int) -> Tally:  # noqa: ARG002
        """mIoU and its drop, pixels that are right, pixels of the same class."""
        if self._head is None or self._preprocess is None:
            raise ModelError("nobody has said which output gives each pixel a class", next_step="fit the task to it")
        return _Tally(self._head, self._preprocess, cast(LabelledMasks, examples))


class _Tally:
    """`Tally` of scores on images with masks."""

    def __init__(self, head: MaskHead, preprocess: Preprocess, examples: LabelledMasks) -> None:
        self._head, self._preprocess, self._examples = head, preprocess, examples
        self._ours, self._theirs = PixelCounts(head.classes), PixelCounts(head.classes)
        self._same = self._pixels = 0
        # A mask of one thing is often written in black and white, where 255 is no "not judged".
        self._white = head.classes == 2 and IGNORED in examples.values and 1 not in examples.values

    def add(self, names: Sequence[str], reference: Outputs, candidate: Outputs) -> None:
        maps = _maps(self._head, reference, candidate)
        for name, ours, theirs in zip(names, *maps, strict=True):
            truth = self._truth(self._examples.truth[name])
            judged = truth != IGNORED
            if not judged.any():
                continue
            right = truth[judged]
            self._ours.add(right, ours[judged].astype(np.int64))
            self._theirs.add(right, theirs[judged].astype(np.int64))
            self._same += int((ours[judged] == theirs[judged]).sum())
            self._pixels += len(right)

    def figures(self) -> Segmentation:
        if not self._pixels:
            raise ImageError("no labelled image could be judged", expected=f"a pixel that is not {IGNORED} at least")
        ours, theirs = self._ours.mean_iou(), self._theirs.mean_iou()
        return Segmentation(
            images=len(self._ours),
            classes=int(self._ours.stacked[:, 1].any(axis=0).sum()),
            miou_reference=ours,
            miou_candidate=theirs,
            drop=ours - theirs,
            drop_standard_error=paired_error(self._ours, self._theirs),
            accuracy_reference=self._ours.accuracy(),
            accuracy_candidate=self._theirs.accuracy(),
            same=100.0 * self._same / self._pixels,
        )

    def _truth(self, mask: Mask) -> NDArray[np.int64]:
        """The class of each pixel of the input; `IGNORED` where no pixel of the image is."""
        values = mask.read()
        if self._white:
            values = (values > 0).astype(np.int64)
        check_classes(mask, [int(value) for value in np.unique(values)], self._head.classes)
        rows, columns = Placement.of(self._preprocess, mask.width, mask.height).rows_and_columns(
            self._head.height, self._head.width
        )
        truth = values[rows][:, columns]
        truth[rows < 0] = IGNORED
        truth[:, columns < 0] = IGNORED
        return truth


class SamePixelsTask(UnlabelledTask):
    """What gives each pixel a class, without masks.

    Args:
        head: of the network.
    """

    name = "same-pixels"
    what = "classes of pixels without masks, held beside those of FP32"
    figures: ClassVar[type[TaskFigures] | None] = SamePixels
    batch: ClassVar[int] = 1
    latency_batches: ClassVar[tuple[int, ...]] = (1, 4)

    def __init__(self, head: MaskHead) -> None:
        self._head = head

    def outputs(self, names: Sequence[str]) -> tuple[str, ...]:  # noqa: ARG002
        """The one that gives each pixel a class."""
        return (self._head.output,)

    def begin(self, names: Sequence[str] = ()) -> Tally:  # noqa: ARG002
        """Pixels of the same class, and mIoU with FP32's classes in the place of masks."""
        return _Alike(self._head)


class _Alike:
    """`Tally` of scores without masks."""

    def __init__(self, head: MaskHead) -> None:
        self._head, self._counts = head, PixelCounts(head.classes)

    def add(self, names: Sequence[str], reference: Outputs, candidate: Outputs) -> None:  # noqa: ARG002
        for ours, theirs in zip(*_maps(self._head, reference, candidate), strict=True):
            self._counts.add(ours.reshape(-1).astype(np.int64), theirs.reshape(-1).astype(np.int64))

    def figures(self) -> SamePixels:
        if not len(self._counts):
            raise ImageError("no image could be judged")
        same, mean = self._counts.accuracy(), self._counts.mean_iou()
        return SamePixels(images=len(self._counts), same=same, mean_iou=mean)


def _maps(head: MaskHead, reference: Outputs, candidate: Outputs) -> tuple[list[NDArray[np.uint16]], ...]:
    """The class of each pixel, of both networks."""
    require_finite(reference, candidate)
    return list(head.class_maps(reference[0])), list(head.class_maps(candidate[0]))
