"""Where an image lies in a network's input, so that what is found there is told in the image's own pixels.

This is the one place that knows: what `Preprocess` does to an image's geometry is undone here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeq.model.images.preprocess import Preprocess

__all__ = ["Placement"]


@dataclass(frozen=True)
class Placement:
    """Input pixel = image pixel x scale + offset, both counted from the left upper corner.

    Attributes:
        width, height: of the image, in pixels.
        scale: across and down.
        offset: across and down, in pixels of the input; below 0 where the image's edge is cut off.
    """

    width: int
    height: int
    scale: tuple[float, float]
    offset: tuple[float, float]

    @classmethod
    def of(cls, preprocess: Preprocess, width: int, height: int) -> Placement:
        """Where an image of this size lies.

        Args:
            preprocess: makes the input of the image.
            width, height: of the image, in pixels.
        """
        rows, columns = preprocess.resized(width, height)
        left = top = 0
        if preprocess.center_crop:
            left, top = _start(columns, preprocess.width), _start(rows, preprocess.height)
        if preprocess.pad is not None:
            left, top = preprocess.pad.corner(rows, columns, preprocess.height, preprocess.width)[::-1]
        return cls(width, height, (columns / width, rows / height), (left, top))

    def boxes(self, found: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes of the input as boxes of the image, inside it.

        Args:
            found: left, top, right, bottom in pixels of the input, float32 [n, 4].

        Returns:
            The same in pixels of the image, float32 [n, 4].
        """
        scale, offset = np.tile(self.scale, 2), np.tile(self.offset, 2)
        edges = np.array([self.width, self.height, self.width, self.height], np.float64)
        made: NDArray[np.float32] = ((found - offset) / scale).clip(0.0, edges).astype(np.float32)
        return made

    def points(self, found: NDArray[np.float32]) -> NDArray[np.float32]:
        """Points of the input as points of the image, which may lie outside it.

        Args:
            found: x, y in pixels of the input, float32 [..., 2].

        Returns:
            The same in pixels of the image, float32 [..., 2].
        """
        made: NDArray[np.float32] = ((found - np.array(self.offset)) / np.array(self.scale)).astype(np.float32)
        return made

    def rows_and_columns(self, rows: int, columns: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which pixel of the image each pixel of the input shows, by its centre.

        Args:
            rows, columns: of the input.

        Returns:
            The image's row for each row, int64 [rows], and its column for each column, int64 [columns]; -1 outside.
        """
        across = _places(columns, self.scale[0], self.offset[0], self.width)
        return _places(rows, self.scale[1], self.offset[1], self.height), across

    def from_image(self, rows: int, columns: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which pixel of the input shows each pixel of the image, by its centre; the nearest where none does.

        Args:
            rows, columns: of the input.

        Returns:
            The input's row for each row of the image, int64 [height], and its column for each column, int64 [width].
        """
        down = (np.arange(self.height) + 0.5) * self.scale[1] + self.offset[1]
        across = (np.arange(self.width) + 0.5) * self.scale[0] + self.offset[0]
        return down.astype(np.int64).clip(0, rows - 1), across.astype(np.int64).clip(0, columns - 1)


def _start(length: int, wanted: int) -> int:
    """Where the middle of an edge begins in what is cut out of it: below 0 where something is cut off.

    An edge that is too short is filled up with zeros, the odd one before it.
    """
    short = wanted - length
    return (short + 1) // 2 if short > 0 else -(-short // 2)


def _places(count: int, scale: float, offset: float, length: int) -> NDArray[np.int64]:
    places = np.floor((np.arange(count) + 0.5 - offset) / scale).astype(np.int64)
    return np.where((places >= 0) & (places < length), places, -1)
