"""Two classifiers on the same labelled images, image by image.

Top-1 of each alone says little: on 5,000 images its standard error is half a point. What both say of the same image is
far sharper, so the paired figures stand beside it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from edgeq.artifact import LaterFields
from edgeq.errors import ImageError, ModelError
from edgeq.model.images.image_set import ImageSet
from edgeq.quality.logits import Answers, LogitFigures, judge_answers
from edgeq.quality.tasks.base import Examples, Headline, ImageTask, Outputs, Row, SearchTally, Tally, finite
from edgeq.quality.tasks.label_order import LabelOrder, OrderTable

__all__ = [
    "MOST_CHANGED",
    "ChangedAnswer",
    "Classification",
    "ClassificationTask",
    "Judged",
    "compare_classifiers",
    "cosines",
    "label_indices",
]

MOST_CHANGED: Final = 100
"""Images that are told by name, of those whose class is another one after quantization."""

_NUMBERED = re.compile(r"^\d+[._-]+(?=\D)")
_WORDNET = re.compile(r"n\d{8}")

Judged = Callable[[NDArray[np.float32]], tuple[NDArray[np.float32], NDArray[np.float32]]]
"""A network under judgement: float32 [n, 3, H, W] -> (logits [n, classes], features [n, any])."""


class ChangedAnswer(BaseModel):
    """An image of which the two networks name different classes.

    Attributes:
        image: its name below the folder or in the zip.
        reference, candidate: what each says: the class's name, or its number where the model has no names.
        right: the class that is right, likewise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: str
    reference: str
    candidate: str
    right: str


class Classification(LaterFields):
    """What a candidate does to a reference's answers.

    Attributes:
        images: number of labelled images.
        top1_reference, top1_candidate: percent right.
        drop: top1_reference - top1_candidate, in points.
        drop_standard_error: of `drop`, from the paired disagreements, in points.
        agreement: percent of images on which both name the same class.
        only_reference_right, only_candidate_right: images that one gets right and the other does not.
        logit_error: ||candidate - reference|| / ||reference|| over all logits.
        feature_cosine_mean, feature_cosine_worst: cosine of what enters the head, over images.
        likely_order: an order of the classes in which FP32 would be right far more often; None, and not written, where
            there is none.
        changed: the first `MOST_CHANGED` images with another class, in their order; not written where there are none,
            or where images have no names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int
    top1_reference: float
    top1_candidate: float
    drop: float
    drop_standard_error: float
    agreement: float
    only_reference_right: int
    only_candidate_right: int
    logit_error: float
    feature_cosine_mean: float
    feature_cosine_worst: float
    likely_order: LabelOrder | None = None
    changed: tuple[ChangedAnswer, ...] = ()
    later: ClassVar[tuple[str, ...]] = ("likely_order", "changed")

    def headline(self) -> Headline:
        """Top-1."""
        return Headline(
            name="top-1",
            unit="points",
            reference=self.top1_reference,
            candidate=self.top1_candidate,
            drop=self.drop,
            standard_error=self.drop_standard_error,
            examples=self.images,
            labelled=True,
            alike="same class",
            agreement=self.agreement,
        )

    def rows(self) -> tuple[Row, ...]:
        """For a table."""
        cosine = f"{self.feature_cosine_mean:.5f}, worst {self.feature_cosine_worst:.4f}"
        return (
            self.headline().row("top-1"),
            (f"same class, {self.images} images", "", "", f"{self.agreement:.2f} %"),
            ("right alone, images", str(self.only_reference_right), str(self.only_candidate_right), ""),
            ("feature cosine", "", "", cosine),
            ("relative logit error", "", "", f"{self.logit_error:.4f}"),
        )


class ClassificationTask(ImageTask[str]):
    """One class for each image, told by the folder that it is in."""

    name = "classification"
    what = "one class for each image, whose folder is named after it"
    key = "answers"
    problem_type = "single_label_classification"
    features: ClassVar[bool] = True
    one_vector: ClassVar[bool] = True
    one_class: ClassVar[bool] = True

    def open(self, path: Path, labels: Sequence[str] | None) -> Examples[str]:  # noqa: ARG002
        """Images in folders named after their class; which logit that is, is known when the network is."""
        images = ImageSet.open(path, labelled=True)
        return Examples(images, {item.name: str(item.label) for item in images.items})

    def classes(self, examples: Examples[str]) -> int | None:
        """The folders."""
        return len(set(examples.truth.values()))

    def tally(self, examples: Examples[str], labels: Sequence[str] | None, classes: int) -> Tally:
        """Top-1 and its drop, agreement, logit error, cosine of the features."""
        return _JudgeTally(_truth(examples, labels, classes), labels)

    def search_tally(self, examples: Examples[str], labels: Sequence[str] | None, classes: int) -> SearchTally:
        """Top-1 and its drop beside figures of the logits."""
        return _SearchTally(_truth(examples, labels, classes))

    def folder_classes(self, images: ImageSet, labels: Sequence[str] | None, classes: int) -> dict[str, int] | None:
        """As `label_indices`; None where an image is in no folder."""
        if any(item.label is None for item in images.items):
            return None
        return label_indices(images.labels, labels, classes)


def _truth(examples: Examples[str], labels: Sequence[str] | None, classes: int) -> dict[str, int]:
    """The class of each image, by its name."""
    indices = label_indices(sorted(set(examples.truth.values())), labels, classes)
    return {name: indices[label] for name, label in examples.truth.items()}


class _JudgeTally:
    """`Tally` of logits and features, by the images' names."""

    def __init__(self, truth: Mapping[str, int], labels: Sequence[str] | None) -> None:
        self._truth, self._sums, self._labels = truth, _Sums(labels), labels
        self._changed: list[ChangedAnswer] = []

    def add(self, names: Sequence[str], reference: Outputs, candidate: Outputs) -> None:
        self._sums.add(_classes(self._truth, names), (reference[0], reference[1]), (candidate[0], candidate[1]))
        answers = zip(names, reference[0].argmax(axis=1), candidate[0].argmax(axis=1), strict=True)
        for name, ours, theirs in answers:
            if ours != theirs and len(self._changed) < MOST_CHANGED:
                said = [self._named(int(each)) for each in (ours, theirs, self._truth[name])]
                self._changed.append(ChangedAnswer(image=name, reference=said[0], candidate=said[1], right=said[2]))

    def _named(self, index: int) -> str:
        return self._labels[index] if self._labels else str(index)

    def figures(self) -> Classification:
        return self._sums.result().model_copy(update={"changed": tuple(self._changed)})


class _SearchTally:
    """`Tally` of logits alone; what each image adds is kept."""

    def __init__(self, truth: Mapping[str, int]) -> None:
        self._truth = truth
        self._answers: Answers | None = None

    def add(self, names: Sequence[str], reference: Outputs, candidate: Outputs) -> None:
        part = judge_answers(reference[0], candidate[0], _classes(self._truth, names))
        self._answers = part if self._answers is None else self._answers.joined(part)

    def figures(self) -> LogitFigures:
        if self._answers is None:
            raise _nothing_judged()
        return self._answers.figures()


def _classes(truth: Mapping[str, int], names: Sequence[str]) -> NDArray[np.int64]:
    return np.array([truth[name] for name in names], np.int64)


def _nothing_judged() -> ImageError:
    return ImageError("no labelled image could be judged")


def label_indices(
    folders: Sequence[str], labels: Sequence[str] | None, classes: int, *, what: str = "folders"
) -> dict[str, int]:
    """Which logit each folder of a labelled set stands for.

    A folder is matched to a name in the model's config, to one of several that are parted by commas, or to a class's
    number; a number in front (`001.tench`) does not count. Where the config has no names, or where the folders are all
    WordNet ids, and there are as many folders as classes, they count in the order of their names: ImageNet's.

    Args:
        folders: their names.
        labels: the model's class names in the order of its logits; None where its config has none.
        classes: number of logits.
        what: to call the folders in an error.

    Raises:
        ImageError: a folder cannot be matched.
        ModelError: the config names another number of classes.
    """
    if labels is not None and len(labels) != classes:
        raise ModelError(
            f"config.json names {len(labels)} classes, the network has {classes} logits",
            causes=("config.json belongs to another model",),
        )
    known = {str(index): index for index in range(classes)} | _by_name(labels or ())
    found = {folder: next((known[name] for name in _spellings(folder) if name in known), None) for folder in folders}
    unknown = [folder for folder, index in found.items() if index is None]
    if not unknown:
        return {folder: index for folder, index in found.items() if index is not None}
    if len(folders) == classes and (labels is None or all(map(_WORDNET.fullmatch, folders))):
        return {folder: index for index, folder in enumerate(sorted(folders))}
    raise ImageError(
        f"{len(unknown)} of {len(folders)} {what} are no class of the model: {', '.join(unknown[:5])}",
        expected=f"{what} named after classes, such as {', '.join((labels or list(known))[:5])}",
        next_step=f"rename the {what}, or give the model a config.json with id2label",
    )


def _by_name(labels: Sequence[str]) -> dict[str, int]:
    """Each name's place; a part of a name only where no other class has it."""
    whole = {_plain(name): index for index, name in enumerate(labels)}
    parts = Counter(_plain(part) for name in labels for part in dict.fromkeys(name.split(",")))
    alone = {
        _plain(part): index
        for index, name in enumerate(labels)
        for part in name.split(",")
        if parts[_plain(part)] == 1 and _plain(part)
    }
    return {**_without_numbers(whole), **alone, **whole}


def _without_numbers(names: Mapping[str, int]) -> dict[str, int]:
    """The names without a number in front, where that leaves them different."""
    bare = Counter(_NUMBERED.sub("", name) for name in names)
    return {_NUMBERED.sub("", name): index for name, index in names.items() if bare[_NUMBERED.sub("", name)] == 1}


def _spellings(folder: str) -> tuple[str, str]:
    """A folder's name, and without a number in front."""
    return _plain(folder), _NUMBERED.sub("", _plain(folder))


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_")


def compare_classifiers(
    reference: Judged,
    candidate: Judged,
    batches: Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]],
    *,
    advance: Callable[[int], None] | None = None,
) -> Classification:
    """Run both networks over labelled images and count.

    Args:
        reference, candidate: the networks.
        batches: (class indices [n], pixels float32 [n, 3, H, W]).
        advance: called with the number of images just judged.

    Raises:
        ImageError: there was no image.
        EngineError: a network gave NaN or infinity.
    """
    sums = _Sums()
    for truth, pixels in batches:
        sums.add(truth, reference(pixels), candidate(pixels))
        if advance:
            advance(len(truth))
    return sums.result()


class _Sums:
    """Running sums; nothing is kept of an image but what it adds to them."""

    def __init__(self, labels: Sequence[str] | None = None) -> None:
        self.orders = OrderTable(labels)
        self.images = 0
        self.right = np.zeros(2, np.int64)
        self.only_right = np.zeros(2, np.int64)
        self.agreed = 0
        self.squares = np.zeros(2)
        self.cosine_sum = 0.0
        self.cosine_worst = math.inf

    def add(
        self,
        truth: NDArray[np.int64],
        reference: tuple[NDArray[np.float32], NDArray[np.float32]],
        candidate: tuple[NDArray[np.float32], NDArray[np.float32]],
    ) -> None:
        logits, other = (finite(role, part[0]) for role, part in (("FP32", reference), ("INT8", candidate)))
        ours, theirs = logits.argmax(axis=1), other.argmax(axis=1)
        ours_right, theirs_right = ours == truth, theirs == truth
        self.orders.add(ours, truth, logits.shape[1])
        self.images += len(truth)
        self.right += (ours_right.sum(), theirs_right.sum())
        self.only_right += ((ours_right & ~theirs_right).sum(), (theirs_right & ~ours_right).sum())
        self.agreed += int((ours == theirs).sum())
        self.squares += (np.square(other - logits).sum(), np.square(logits).sum())
        cosine = cosines(reference[1], candidate[1])
        self.cosine_sum += float(cosine.sum())
        self.cosine_worst = min(self.cosine_worst, float(cosine.min()))

    def result(self) -> Classification:
        if self.images == 0:
            raise _nothing_judged()
        percent = 100.0 / self.images
        drop = float(self.right[0] - self.right[1]) * percent
        discordant = float(self.only_right.sum()) / self.images
        variance = (discordant - (drop / 100.0) ** 2) / self.images
        return Classification(
            images=self.images,
            top1_reference=float(self.right[0]) * percent,
            top1_candidate=float(self.right[1]) * percent,
            drop=drop,
            drop_standard_error=100.0 * math.sqrt(max(variance, 0.0)),
            agreement=self.agreed * percent,
            only_reference_right=int(self.only_right[0]),
            only_candidate_right=int(self.only_right[1]),
            logit_error=math.sqrt(self.squares[0] / max(self.squares[1], np.finfo(float).tiny)),
            feature_cosine_mean=self.cosine_sum / self.images,
            feature_cosine_worst=self.cosine_worst,
            likely_order=self.orders.likely(),
        )


def cosines(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine of each row of two arrays [n, ...], float64 [n]; two zero vectors agree, one alone does not."""
    a, b = (part.reshape(len(part), -1).astype(np.float64) for part in (ours, theirs))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    same = np.all(a == b, axis=1).astype(np.float64)
    cosine: NDArray[np.float64] = np.where(
        lengths > 0.0, (a * b).sum(axis=1) / np.where(lengths > 0.0, lengths, 1.0), same
    )
    return cosine
