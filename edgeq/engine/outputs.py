"""What an engine gave for one image, as a row of numbers that does not grow with the size of a mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["MOST_NUMBERS", "OutputRows", "comparable", "flat_row", "stride_for", "thinned"]

_VECTOR: Final = 2
MOST_NUMBERS: Final = 1 << 16
"""So many numbers of an output say how near two networks are; a mask of a million says no more."""


def stride_for(numbers: int, most: int = MOST_NUMBERS) -> int:
    """Every how many-th number of an output is taken, so that at most `most` are left; 1 takes all.

    It is prime, so that of an output [boxes, 4] every field is seen.

    Args:
        numbers: of the output, for one image.
        most: that are wanted.
    """
    stride = -(-numbers // most)
    while stride > 1 and any(stride % divisor == 0 for divisor in range(2, int(stride**0.5) + 1)):
        stride += 1
    return max(stride, 1)


def flat_row(values: NDArray[Any], every: int = 1) -> NDArray[np.float32]:
    """Every so many-th number of an output of any shape and type, float32 [numbers].

    Args:
        values: for one image.
        every: 1 for all.
    """
    return np.asarray(values).reshape(-1)[::every].astype(np.float32)


def thinned(values: NDArray[Any]) -> NDArray[Any]:
    """What an output gives for one image, to be compared: a vector [1, numbers] as it is, in its own dtype; of anything
    else every so many-th number, float32 [1, numbers].
    """
    return values if values.ndim == _VECTOR and len(values) == 1 else flat_row(values, stride_for(values.size))[None]


def comparable(outputs: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
    """What a network gives for one image, [1, numbers] in the dtypes of `thinned`; no integers where there is more.

    Integers are numbers of what was chosen; how far they are apart says nothing.

    Args:
        outputs: all of them.
    """
    floats = [values for values in outputs if values.dtype.kind == "f"]
    return tuple(map(thinned, floats or outputs))


class OutputRows:
    """Rows of everything that a network gives for an image, on which the distance of two networks is measured.

    One vector is its own row. Of several outputs, each is divided by its length over the reference's images, so that
    the distance of two rows is that of the outputs' relative errors: boxes of hundreds of pixels count as much as
    scores below 1. Rows of different lengths are filled up with zeros.

    Args:
        reference: what the network gave that others are compared with: for each image the outputs, from `comparable`.
    """

    def __init__(self, reference: Sequence[Sequence[NDArray[Any]]]) -> None:
        places = range(len(reference[0]))
        self._numbers = [int(max(image[place].shape[1] for image in reference)) for place in places]
        self._lengths = [1.0] * len(places)
        if len(places) > 1:
            lengths = (float(np.linalg.norm(self._filled(reference, place))) for place in places)
            self._lengths = [length or 1.0 for length in lengths]

    def __call__(self, images: Sequence[Sequence[NDArray[Any]]]) -> NDArray[np.float64]:
        """The rows of what a network gave for each image, from `comparable`: float64 [images, numbers]."""
        parts = [self._filled(images, place) / length for place, length in enumerate(self._lengths)]
        return np.concatenate(parts, axis=1)

    @property
    def first(self) -> int:
        """How many numbers of a row are the first output's."""
        return self._numbers[0]

    def _filled(self, images: Sequence[Sequence[NDArray[Any]]], place: int) -> NDArray[np.float64]:
        """One output of each image, float64 [images, numbers]."""
        rows = np.zeros((len(images), self._numbers[place]))
        for row, image in zip(rows, images, strict=True):
            values = image[place][0, : len(row)]
            row[: len(values)] = values
        return rows
