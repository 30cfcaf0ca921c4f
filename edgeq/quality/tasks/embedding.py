"""How near a candidate's answers are to its reference's, where nobody has said what is right.

Nothing here is accuracy. It is what can be said of an encoder, whose features have no label, and of a classifier
without labelled images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from edgeq.errors import EngineError, ImageError
from edgeq.quality.tasks.base import Headline, Outputs, Row, Tally, UnlabelledTask
from edgeq.quality.tasks.classification import cosines

__all__ = ["EmbeddingTask", "Fidelity", "compare_answers"]

_FEWEST_NEIGHBOURS: Final = 3
_APART: Final = "error against what tells images apart"


class Fidelity(BaseModel):
    """Answers [images, k], which are logits or features, of a candidate and its reference.

    Attributes:
        images: how many were compared.
        error: ||candidate - reference|| / ||reference|| over all answers.
        cosine_mean, cosine_worst: between the two answers to an image, over images.
        agreement: percent of images for which the same number of the k is the largest: the class of a classifier.
        neighbours: percent of images whose nearest other image, by cosine, is the same for both; None for fewer than
            three images.
        spread_error: ||candidate - reference|| / ||reference - its mean over images||: the error against what tells
            images apart. What all answers share says nothing of an image, and hides a loss in `error` and in a cosine.
            None where the images have one answer in common, and in figures of before it was measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int
    error: float
    cosine_mean: float
    cosine_worst: float
    agreement: float
    neighbours: float | None
    spread_error: float | None = None

    def headline(self) -> Headline:
        """The relative error: no drop of accuracy, which nobody can tell."""
        return Headline(
            name="relative error",
            unit="of their length",
            reference=None,
            candidate=None,
            drop=self.error,
            standard_error=None,
            examples=self.images,
            labelled=False,
            alike="same number is the largest",
            agreement=self.agreement,
            spread=self.spread_error,
        )

    def rows(self) -> tuple[Row, ...]:
        """For a table."""
        apart = () if self.spread_error is None else ((_APART, "", "", f"{self.spread_error:.4f}"),)
        nearest = () if self.neighbours is None else (("same nearest image", "", "", f"{self.neighbours:.2f} %"),)
        return (
            (f"relative error, {self.images} images without labels", "", "", f"{self.error:.4f}"),
            *apart,
            ("cosine", "", "", f"{self.cosine_mean:.5f}, worst {self.cosine_worst:.4f}"),
            ("same number is the largest", "", "", f"{self.agreement:.2f} %"),
            *nearest,
        )


class EmbeddingTask(UnlabelledTask):
    """Any answers to images of which nothing is said."""

    name = "embedding"
    what = "answers without labels, held beside those of FP32"
    key = "fidelity"
    batch: ClassVar[int] = 1

    def begin(self) -> Tally:
        """Error, cosine, agreement and neighbours; every answer is kept."""
        return _Answers()


class _Answers:
    """`Tally` of answers [n, k]."""

    def __init__(self) -> None:
        self._pairs: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []

    def add(self, names: Sequence[str], reference: Outputs, candidate: Outputs) -> None:  # noqa: ARG002
        self._pairs.append((reference[0], candidate[0]))

    def figures(self) -> Fidelity:
        if not self._pairs:
            raise ImageError("no image could be judged")
        ours, theirs = (np.concatenate(part) for part in zip(*self._pairs, strict=True))
        return compare_answers(ours, theirs)


def compare_answers(reference: NDArray[np.float32], candidate: NDArray[np.float32]) -> Fidelity:
    """Compare answers [images, k] of both.

    Raises:
        EngineError: one of them holds NaN or infinity.
    """
    if not (np.isfinite(reference).all() and np.isfinite(candidate).all()):
        raise EngineError("a network gave NaN or infinity", expected="finite answers to real images")
    ours, theirs = reference.astype(np.float64), candidate.astype(np.float64)
    length = max(float(np.linalg.norm(ours)), math.sqrt(np.finfo(np.float64).tiny))
    cosine = cosines(reference, candidate)
    return Fidelity(
        images=len(ours),
        error=float(np.linalg.norm(theirs - ours)) / length,
        cosine_mean=float(cosine.mean()),
        cosine_worst=float(cosine.min()),
        agreement=_percent(ours.argmax(axis=1) == theirs.argmax(axis=1)),
        neighbours=None if len(ours) < _FEWEST_NEIGHBOURS else _percent(_nearest(ours) == _nearest(theirs)),
        spread_error=_spread_error(ours, theirs),
    )


def _spread_error(reference: NDArray[np.float64], candidate: NDArray[np.float64]) -> float | None:
    """The error of answers [images, ...] against how far the reference's are from their mean; None for equal ones."""
    apart = float(np.linalg.norm(reference - reference.mean(axis=0)))
    rounding = float(np.finfo(np.float32).eps) * float(np.linalg.norm(reference))
    return float(np.linalg.norm(candidate - reference)) / apart if apart > rounding else None


def _percent(same: NDArray[np.bool_]) -> float:
    return 100.0 * float(same.mean())


def _nearest(answers: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each row, the other row with the largest cosine."""
    lengths = np.linalg.norm(answers, axis=1, keepdims=True)
    directions = answers / np.where(lengths > 0.0, lengths, 1.0)
    likeness = directions @ directions.T
    np.fill_diagonal(likeness, -math.inf)
    nearest: NDArray[np.int64] = likeness.argmax(axis=1)
    return nearest
