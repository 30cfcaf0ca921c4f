"""How much an image differs from the last one that was looked at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["CELLS", "Change"]

CELLS = 32
"""Cells across and down."""


class Change:
    """The greatest difference of a cell, in percent of black to white.

    Each image is brought to grey, and to 32 x 32 cells that are the means of their pixels: noise of single pixels is
    averaged out, while something small that comes into the picture still fills a cell. The comparison is with the last
    image that was looked at, not with the one before, so that what changes slowly adds up.

    Args:
        least: percent, below which an image hardly changed; 0 takes every one.
    """

    def __init__(self, least: float) -> None:
        self._least = least
        self._before: NDArray[np.float32] | None = None

    def take(self, image: Image.Image) -> tuple[bool, float | None]:
        """Whether an image is looked at, and how much it differs from the last that was; None where nobody asks.

        Args:
            image: in mode RGB.
        """
        if not self._least:
            return True, None
        cells = _cells(image)
        change = None if self._before is None else float(np.abs(cells - self._before).max()) / 2.55
        if change is not None and change < self._least:
            return False, change
        self._before = cells
        return True, change


def _cells(image: Image.Image) -> NDArray[np.float32]:
    """Means of grey, float32 [32, 32], 0..255."""
    return np.asarray(image.convert("F").resize((CELLS, CELLS), Image.Resampling.BOX), np.float32)
