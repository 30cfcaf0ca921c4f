"""The size that resizing gives an image, what is cut out of it, and what fills it up to the network's own size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ImageError

__all__ = ["Fit", "Pad", "Resize", "center_crop", "edges", "resized_size"]

Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True)
class Fit:
    """Resizing that keeps the aspect ratio.

    Attributes:
        height: the most that comes out, in pixels.
        width: likewise.
        shortest: what the shorter edge becomes where the longer one allows it (DETR); None: as large as fits.
        multiple: with `shortest`, edges are rounded down to whole multiples of this (YOLOS).
        nearest: whether edges are rounded to the nearest pixel (SAM, Ultralytics); else down (`max_height`, YOLOX).
    """

    height: int
    width: int
    shortest: int | None = None
    multiple: int = 1
    nearest: bool = False

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) in pixels of what an image of `height` x `width` becomes."""
        if self.shortest is not None:
            exact = _shortest_within(height, width, self.shortest, self.height)
            made = tuple(edge - edge % self.multiple for edge in exact)
            return max(1, made[0]), max(1, made[1])
        scale = min(self.height / height, self.width / width)
        half = 0.5 if self.nearest else 0.0
        return max(1, int(height * scale + half)), max(1, int(width * scale + half))


Resize = tuple[int, int] | int | Fit | None
"""(height, width) to resize to, or the length of the shorter edge, or `Fit`; None: left as it is."""


@dataclass(frozen=True)
class Pad:
    """What fills up an image that is smaller than the network's input.

    Attributes:
        value: of the pixels that fill up, 0..255; None: zeros after normalization, as DETR's and SAM's.
        center: whether the image is put in the middle; else at the top left.
    """

    value: int | None
    center: bool

    def corner(self, rows: int, columns: int, height: int, width: int) -> tuple[int, int]:
        """Where an image lies in the one that it is filled up to.

        Args:
            rows, columns: of the image, in pixels.
            height, width: of what is filled up, in pixels.

        Returns:
            Its top and its left, in pixels.
        """
        return ((height - rows) // 2, (width - columns) // 2) if self.center else (0, 0)

    def fill(self, pixels: NDArray[Number], height: int, width: int, value: Any) -> NDArray[Number]:
        """The image in one of `height` x `width`, of its dtype; an odd pixel is put behind it.

        Args:
            pixels: [C, h, w], uint8 or float32.
            height: of the result, in pixels.
            width: likewise.
            value: what fills up.

        Returns:
            [C, height, width].

        Raises:
            ImageError: the image is larger.
        """
        have, wide = pixels.shape[1:]
        if have > height or wide > width:
            raise ImageError(f"an image of {wide} x {have} pixels is larger than the {width} x {height} to be filled")
        top, left = self.corner(have, wide, height, width)
        filled = np.full((len(pixels), height, width), value, pixels.dtype)
        filled[:, top : top + have, left : left + wide] = pixels
        return filled


def resized_size(size: tuple[int, int], resize: tuple[int, int] | int | Fit) -> tuple[int, int]:
    """(height, width) that an image gets.

    Args:
        size: (width, height) of the image, in pixels, as Pillow says it.
        resize: the step.
    """
    if isinstance(resize, tuple):
        return resize
    width, height = size
    if isinstance(resize, Fit):
        return resize.size(height, width)
    longer = int(resize * max(size) / min(size))
    return (longer, resize) if width <= height else (resize, longer)


def edges(resize: Resize) -> tuple[int, ...]:
    """The lengths in a resizing step, in pixels."""
    if resize is None:
        return ()
    if isinstance(resize, Fit):
        return (resize.height, resize.width, *(() if resize.shortest is None else (resize.shortest,)))
    return resize if isinstance(resize, tuple) else (resize,)


def center_crop(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The middle of an image; zeros where it is smaller.

    Args:
        pixels: uint8 [C, h, w].
        height: of what is cut out, in pixels.
        width: likewise.

    Returns:
        uint8 [C, height, width].
    """
    missing = [(0, 0), *(_missing(have, want) for have, want in zip(pixels.shape[1:], (height, width), strict=True))]
    padded = np.pad(pixels, missing)
    top, left = (padded.shape[1] - height) // 2, (padded.shape[2] - width) // 2
    return padded[:, top : top + height, left : left + width]


def _missing(have: int, want: int) -> tuple[int, int]:
    """Zeros before and after an edge that is too short; an odd one goes before."""
    short = max(want - have, 0)
    return (short + 1) // 2, short // 2


def _shortest_within(height: int, width: int, shortest: int, longest: int) -> tuple[int, int]:
    """As `get_size_with_aspect_ratio` in transformers' `image_transforms.py`, rounding for rounding."""
    low, high = min(height, width), max(height, width)
    exact: float = shortest
    if high / low * shortest > longest:
        exact = longest * low / high
        shortest = round(exact)
    if low == shortest:
        return height, width
    longer = int(exact * high / low)
    return (longer, shortest) if width < height else (shortest, longer)
