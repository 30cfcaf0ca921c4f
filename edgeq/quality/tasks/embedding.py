"""How near a candidate's answers are to its reference's, where nobody has said what is right.

Nothing here is accuracy. It is what can be said of an encoder, whose features have no label, of a classifier without
labelled images, and of a detector's boxes. Every output is compared by itself: one number over scores below 1 and boxes
of hundreds of pixels would be that of the boxes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from edgeq.artifact import LaterFields
from edgeq.errors import EngineError, ImageError
from edgeq.quality.tasks.base import Headline, Outputs, Row, Tally, UnlabelledTask
from edgeq.quality.tasks.classification import cosines

__all__ = ["EmbeddingTask", "Fidelity", "OutputFidelity", "OutputsTally", "compare_answers", "output_row"]

_FEWEST_NEIGHBOURS: Final = 3
_APART: Final = "error against what tells images apart"
_VECTOR: Final = 2
_MOST_KEPT: Final = 1 << 24
"""So many numbers of an output are kept at most, to find each image's nearest: 64 MB for each network."""


class OutputFidelity(BaseModel):
    """One output of a candidate and its reference.

    Attributes:
        output: its name.
        images: how many were compared.
        error: ||candidate - reference|| / ||reference|| over all images.
        cosine_mean, cosine_worst: between the two outputs for an image, over images.
        agreement: percent of images for which the same number is the largest; None where the output is no vector of
            two numbers or more.
        spread_error: ||candidate - reference|| / ||reference - its mean over images||: the error against what tells
            images apart. What all images share says nothing of any, and hides a loss in `error` and in a cosine. None
            where the images have one output in common, or differ in its size.
        resized: images for which the two outputs are of different sizes, as where a network lists what it found; the
            shorter one is filled up with zeros.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: str
    images: int
    error: float
    cosine_mean: float
    cosine_worst: float
    agreement: float | None = None
    spread_error: float | None = None
    resized: int = 0


class Fidelity(LaterFields):
    """Answers to images, which are logits, features or anything else, of a candidate and its reference.

    Attributes:
        images: how many were compared.
        error: ||candidate - reference|| / ||reference|| over all answers; of several outputs, that of the worst. It is
            not that of integers, or of lists of different lengths, unless there is nothing else.
        cosine_mean, cosine_worst: between the two answers to an image, over images; of the same output.
        agreement: percent of images for which the same number of the answer is the largest: the class of a classifier.
            None where the first output is no vector.
        neighbours: percent of images whose nearest other image, by cosine, is the same for both; None for fewer than
            three images, or where the first output is no vector.
        spread_error: as of one output, of the worst in that; None where the images have one answer in common, and in
            figures of before it was measured.
        outputs: each output by itself, where there are several or one differs in size; not written otherwise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int
    error: float
    cosine_mean: float
    cosine_worst: float
    agreement: float | None
    neighbours: float | None
    spread_error: float | None = None
    outputs: tuple[OutputFidelity, ...] = ()
    later: ClassVar[tuple[str, ...]] = ("outputs",)

    def headline(self) -> Headline:
        """The relative error of the worst output: no drop of accuracy, which nobody can tell."""
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
        worst = " of the worst output" if len(self.outputs) > 1 else ""
        largest = () if self.agreement is None else (("same number is the largest", "", "", f"{self.agreement:.2f} %"),)
        nearest = () if self.neighbours is None else (("same nearest image", "", "", f"{self.neighbours:.2f} %"),)
        return (
            (f"relative error{worst}, {self.images} images without labels", "", "", f"{self.error:.4f}"),
            *apart,
            ("cosine", "", "", f"{self.cosine_mean:.5f}, worst {self.cosine_worst:.4f}"),
            *largest,
            *nearest,
            *map(output_row, self.outputs),
        )


def output_row(found: OutputFidelity) -> Row:
    """A line of a table for one output."""
    sizes = f", {found.resized} of other sizes" if found.resized else ""
    return (f"output {found.output}, relative error", "", "", f"{found.error:.4f}{sizes}")


class EmbeddingTask(UnlabelledTask):
    """Any answers to images of which nothing is said."""

    name = "embedding"
    what = "answers without labels, held beside those of FP32"
    key = "fidelity"
    batch: ClassVar[int] = 1

    def outputs(self, names: Sequence[str]) -> tuple[str, ...]:
        """All of them."""
        return tuple(names)

    def begin(self, names: Sequence[str] = ()) -> Tally:
        """Error, cosine, agreement and neighbours; of an answer that is a vector, every one is kept."""
        return _Answers(names)


class OutputsTally:
    """A comparison of several outputs, each by itself; running sums, and nothing else is kept.

    Args:
        names: of the outputs.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._sums = [_OutputSums(name) for name in names]

    def add(self, reference: Outputs, candidate: Outputs, images: int) -> None:
        """Take what both networks gave for the same images.

        Args:
            reference, candidate: an array for each name; row i is of image i where there are several images.
            images: how many.

        Raises:
            EngineError: a network gave NaN or infinity.
        """
        for sums, ours, theirs in zip(self._sums, reference, candidate, strict=True):
            sums.add(ours, theirs, images)

    @property
    def floats(self) -> tuple[bool, ...]:
        """Of each output, whether it is floating point."""
        return tuple(sums.floats for sums in self._sums)

    def figures(self) -> tuple[OutputFidelity, ...]:
        """What all that was added comes to."""
        return tuple(sums.figures() for sums in self._sums)


class _OutputSums:
    """Running sums of one output."""

    def __init__(self, name: str) -> None:
        self._name, self._images, self._resized = name, 0, 0
        self._square, self._length = 0.0, 0.0
        self._cosines: list[NDArray[np.float64]] = []
        self._agreed: int | None = 0
        self._apart: _Apart | None = _Apart()
        self.floats = True

    def add(self, reference: NDArray[Any], candidate: NDArray[Any], images: int) -> None:
        ours, theirs = (np.atleast_1d(np.asarray(values, np.float32)) for values in (reference, candidate))
        self.floats = self.floats and np.asarray(reference).dtype.kind == "f"
        if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
            raise EngineError("a network gave NaN or infinity", expected="finite answers to real images")
        vector = ours.shape == theirs.shape and ours.ndim == _VECTOR and len(ours) == images and ours.shape[1] > 1
        if ours.shape != theirs.shape:
            self._resized += images
            self._apart = None
            ours, theirs = _filled(ours, theirs)
        ours, theirs = (values.reshape(images if len(values) == images else 1, -1) for values in (ours, theirs))
        exact = ours.astype(np.float64)
        self._images += images
        self._square += float(np.square(theirs - exact).sum())
        self._length += float(np.square(exact).sum())
        self._cosines.append(cosines(ours, theirs))
        if self._apart is not None and not self._apart.add(exact):
            self._apart = None
        if not vector or self._agreed is None:
            self._agreed = None
        else:
            self._agreed += int((ours.argmax(axis=1) == theirs.argmax(axis=1)).sum())

    def figures(self) -> OutputFidelity:
        if not self._images:
            raise ImageError("no image could be judged")
        cosine = np.concatenate(self._cosines)
        return OutputFidelity(
            output=self._name,
            images=self._images,
            error=math.sqrt(self._square) / max(math.sqrt(self._length), math.sqrt(np.finfo(np.float64).tiny)),
            cosine_mean=float(cosine.mean()),
            cosine_worst=float(cosine.min()),
            agreement=None if self._agreed is None else 100.0 * self._agreed / self._images,
            spread_error=self._spread_error(),
            resized=self._resized,
        )

    def _spread_error(self) -> float | None:
        apart = None if self._apart is None else self._apart.square()
        rounding = float(np.finfo(np.float32).eps) ** 2 * self._length
        return None if apart is None or apart <= rounding else math.sqrt(self._square / apart)


class _Apart:
    """How far rows are from their mean, in running sums; the first row is taken from each, for the digits' sake."""

    def __init__(self) -> None:
        self._rows, self._square = 0, 0.0
        self._first: NDArray[np.float64] | None = None
        self._sum: NDArray[np.float64] | None = None

    def add(self, rows: NDArray[np.float64]) -> bool:
        """Take rows [n, any]; false where they are not as long as those before."""
        if self._first is None or self._sum is None:
            self._first, self._sum = rows[0].copy(), np.zeros_like(rows[0])
        if rows.shape[1:] != self._first.shape:
            return False
        from_first = rows - self._first
        self._rows += len(rows)
        self._sum += from_first.sum(axis=0)
        self._square += float(np.square(from_first).sum())
        return True

    def square(self) -> float | None:
        """The sum of squares of all differences from the mean; None where there was no row."""
        if self._sum is None:
            return None
        return self._square - float(np.square(self._sum).sum()) / self._rows


def _filled(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Both of the larger size along every axis, with zeros; flat where they have different numbers of axes."""
    if ours.ndim != theirs.ndim:
        ours, theirs = ours.reshape(-1), theirs.reshape(-1)
    most = tuple(max(pair) for pair in zip(ours.shape, theirs.shape, strict=True))
    first, second = (
        np.pad(values, [(0, long - short) for short, long in zip(values.shape, most, strict=True)])
        for values in (ours, theirs)
    )
    return first, second


class _Answers:
    """`Tally` of one answer or several."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names, self._kept = tuple(names), 0
        self._sums: OutputsTally | None = None
        self._vectors: list[tuple[NDArray[np.float32], NDArray[np.float32]]] | None = []

    def add(self, names: Sequence[str], reference: Outputs, candidate: Outputs) -> None:
        if self._sums is None:
            self._names = self._names or tuple(str(place) for place in range(len(reference)))
            self._sums = OutputsTally(self._names)
        self._sums.add(reference, candidate, len(names))
        ours, theirs = reference[0], candidate[0]
        self._kept += ours.size
        if ours.shape != theirs.shape or ours.ndim != _VECTOR or self._kept > _MOST_KEPT:
            self._vectors = None
        if self._vectors is not None:
            self._vectors.append((ours, theirs))

    def figures(self) -> Fidelity:
        if self._sums is None:
            raise ImageError("no image could be judged")
        found = self._sums.figures()
        whole = [one for one, floats in zip(found, self._sums.floats, strict=True) if floats and not one.resized]
        worst = max(whole or found, key=lambda one: one.error)
        several = len(found) > 1 or worst.resized
        return Fidelity(
            images=found[0].images,
            error=worst.error,
            cosine_mean=worst.cosine_mean,
            cosine_worst=worst.cosine_worst,
            agreement=found[0].agreement,
            neighbours=self._neighbours(),
            spread_error=max((one.spread_error for one in found if one.spread_error is not None), default=None),
            outputs=found if several else (),
        )

    def _neighbours(self) -> float | None:
        if self._vectors is None:
            return None
        ours, theirs = (np.concatenate(part).astype(np.float64) for part in zip(*self._vectors, strict=True))
        return None if len(ours) < _FEWEST_NEIGHBOURS else _percent(_nearest(ours) == _nearest(theirs))


def compare_answers(reference: NDArray[np.float32], candidate: NDArray[np.float32]) -> Fidelity:
    """Compare answers [images, ...] of both, of any rank.

    Raises:
        EngineError: one of them holds NaN or infinity.
    """
    tally = _Answers(())
    tally.add([""] * len(reference), (reference,), (candidate,))
    return tally.figures()


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
