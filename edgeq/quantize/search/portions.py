"""Images in portions of the size that is asked for, in an order whose beginnings are spread over the folders."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeq.model.images.image_set import ImageItem, ImageSet
from edgeq.model.images.preprocess import Preprocess
from edgeq.model.images.stream import ImageStream

__all__ = ["FIRST_ROUND", "Batch", "Portions"]

FIRST_ROUND: Final = 48
"""So many images at the least are spread over the folders; then twice as many, and so on."""

_DECODED = 16
"""So many images are decoded together."""

Batch = tuple[tuple[ImageItem, ...], NDArray[np.float32]]
"""Images, and their pixels, float32 [n, 3, H, W]."""


class Portions:
    """A set of images, to be taken bit by bit.

    Args:
        images: all of them.
        preprocess: from an image to pixels.
        together: so many at most are given at once.
    """

    def __init__(self, images: ImageSet, preprocess: Preprocess, *, together: int) -> None:
        # A multiple of what is decoded together, or less than that.
        self._together = together - together % _DECODED if together > _DECODED else together
        self._stream = ImageStream(_spread(images), preprocess, batch_size=min(_DECODED, together))
        self._batches = _batches(self._stream)

    @property
    def skipped(self) -> tuple[str, ...]:
        """Names of the images so far that could not be read."""
        return tuple(image.name for image in self._stream.skipped)

    def take(self, count: int) -> Iterator[Batch]:
        """The next `count` images or a few more; fewer where no more are left.

        Raises:
            ImageError: too many cannot be read.
        """
        while count > 0:
            items: list[ImageItem] = []
            pixels: list[NDArray[np.float32]] = []
            while len(items) < min(count, self._together) and (batch := next(self._batches, None)) is not None:
                items += batch[0]
                pixels.append(batch[1])
            if not items:
                return
            count -= len(items)
            yield tuple(items), np.concatenate(pixels)

    def close(self) -> None:
        """Decode no further."""
        self._batches.close()


def _batches(stream: ImageStream) -> Generator[Batch]:
    yield from stream


def _spread(images: ImageSet) -> ImageSet:
    order: dict[ImageItem, None] = {}
    count = FIRST_ROUND
    while len(order) < len(images):
        order |= dict.fromkeys(images.sample(count).items)
        count *= 2
    return replace(images, items=tuple(order))
