"""Two classifiers on the same labelled images, image by image.

Top-1 of each alone says little: on 5,000 images its standard error is half a point. What both say of the same image is
far sharper, so the paired figures stand beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from edgeq.errors import EngineError, ImageError, ModelError

__all__ = ["Classification", "Judged", "compare_classifiers", "cosines", "label_indices"]

Judged = Callable[[NDArray[np.float32]], tuple[NDArray[np.float32], NDArray[np.float32]]]
"""A network under judgement: float32 [n, 3, H, W] -> (logits [n, classes], features [n, any])."""


class Classification(BaseModel):
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


def label_indices(folders: Sequence[str], labels: Sequence[str] | None, classes: int) -> dict[str, int]:
    """Which logit each folder of a labelled set stands for.

    A folder is matched to a name in the model's config, or to the number of a class; where the config has no names,
    and there are as many folders as classes, the folders count in the order of their names.

    Raises:
        ImageError: a folder cannot be matched.
    """
    if labels is not None and len(labels) != classes:
        raise ModelError(
            f"config.json names {len(labels)} classes, the network has {classes} logits",
            causes=("config.json belongs to another model",),
        )
    known = {str(index): index for index in range(classes)}
    known |= {_plain(name): index for index, name in enumerate(labels or ())}
    unknown = [folder for folder in folders if _plain(folder) not in known]
    if not unknown:
        return {folder: known[_plain(folder)] for folder in folders}
    if labels is None and len(folders) == classes:
        return {folder: index for index, folder in enumerate(sorted(folders))}
    raise ImageError(
        f"{len(unknown)} of {len(folders)} folders are no class of the model: {', '.join(unknown[:5])}",
        expected=f"folders named after classes, such as {', '.join((labels or list(known))[:5])}",
        next_step="rename the folders, or give the model a config.json with id2label",
    )


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
    tally = _Tally()
    for truth, pixels in batches:
        tally.add(truth, reference(pixels), candidate(pixels))
        if advance:
            advance(len(truth))
    if tally.images == 0:
        raise ImageError("no labelled image could be judged")
    return tally.result()


class _Tally:
    """Running sums; nothing is kept of an image but what it adds to them."""

    def __init__(self) -> None:
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
        logits, other = (_finite(role, part[0]) for role, part in (("FP32", reference), ("INT8", candidate)))
        ours, theirs = logits.argmax(axis=1), other.argmax(axis=1)
        ours_right, theirs_right = ours == truth, theirs == truth
        self.images += len(truth)
        self.right += (ours_right.sum(), theirs_right.sum())
        self.only_right += ((ours_right & ~theirs_right).sum(), (theirs_right & ~ours_right).sum())
        self.agreed += int((ours == theirs).sum())
        self.squares += (np.square(other - logits).sum(), np.square(logits).sum())
        cosine = cosines(reference[1], candidate[1])
        self.cosine_sum += float(cosine.sum())
        self.cosine_worst = min(self.cosine_worst, float(cosine.min()))

    def result(self) -> Classification:
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
        )


def _finite(role: str, logits: NDArray[np.float32]) -> NDArray[np.float64]:
    if not np.isfinite(logits).all():
        raise EngineError(f"the {role} network gave NaN or infinity", expected="finite logits on real images")
    return logits.astype(np.float64)


def cosines(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine of each row of two arrays [n, ...]; two zero vectors agree, one alone does not."""
    a, b = (part.reshape(len(part), -1).astype(np.float64) for part in (ours, theirs))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    same = np.all(a == b, axis=1).astype(np.float64)
    cosine: NDArray[np.float64] = np.where(
        lengths > 0.0, (a * b).sum(axis=1) / np.where(lengths > 0.0, lengths, 1.0), same
    )
    return cosine
