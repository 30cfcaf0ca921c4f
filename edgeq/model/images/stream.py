"""Images as batches for a network, decoded ahead by a few threads in constant memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ImageError, InputError
from edgeq.model.images.image_set import ImageItem, ImageSet
from edgeq.model.images.preprocess import Preprocess

__all__ = ["MAX_BAD_SHARE", "ImageStream", "SkippedImage", "check_share"]

MAX_BAD_SHARE = 0.05
"""The largest share of images that may be unusable before the whole set is refused."""

_AHEAD = 4  # images in flight per worker: enough to keep it busy, few enough to bound the memory
_NAMED = 5


@dataclass(frozen=True)
class SkippedImage:
    """An image that could not be used, and why in one line."""

    name: str
    reason: str

    @property
    def sentence(self) -> str:
        """The reason with the name before it, where it is not there already."""
        return self.reason if self.reason.startswith(self.name) else f"{self.name}: {self.reason}"


class ImageStream:
    """All images of a set in order, as float32 batches [n, 3, H, W]; it can be gone through any number of times.

    An image that cannot be used is skipped, counted and named in `skipped`; batches stay full nevertheless.
    """

    def __init__(
        self,
        images: ImageSet,
        preprocess: Preprocess,
        *,
        batch_size: int,
        workers: int = 2,
        total: int | None = None,
    ) -> None:
        """Say what to stream.

        Args:
            images: the images.
            preprocess: turns one into pixels [3, H, W].
            batch_size: images per batch; the last batch may have fewer.
            workers: decoding threads.
            total: size of the set that `images` is a part of, of which MAX_BAD_SHARE may be unusable.

        Raises:
            InputError: `batch_size` or `workers` is below 1.
        """
        if batch_size < 1 or workers < 1:
            raise InputError(
                f"batch size {batch_size} and {workers} workers were asked for, expected at least 1 of each"
            )
        self._images = images
        self._preprocess = preprocess
        self._batch_size = batch_size
        self._workers = workers
        self._total = len(images) if total is None else total
        self._skipped: list[SkippedImage] = []

    def __len__(self) -> int:
        """The number of images in the set, unusable ones included."""
        return len(self._images)

    @property
    def skipped(self) -> tuple[SkippedImage, ...]:
        """The images skipped in the present or latest pass."""
        return tuple(self._skipped)

    def __iter__(self) -> Iterator[tuple[tuple[ImageItem, ...], NDArray[np.float32]]]:
        """Batches of (items, pixels).

        Raises:
            ImageError: more than MAX_BAD_SHARE of the set cannot be used; raised as soon as that is certain.
        """
        items: list[ImageItem] = []
        pixels: list[NDArray[np.float32]] = []
        for item, image in self.singles():
            items.append(item)
            pixels.append(image)
            if len(items) == self._batch_size:
                batch = tuple(items), np.concatenate(pixels)
                items, pixels = [], []  # before it is handed over: an image is not held twice meanwhile
                yield batch
        if items:
            yield tuple(items), np.concatenate(pixels)

    def singles(self) -> Iterator[tuple[ImageItem, NDArray[np.float32]]]:
        """Each image by itself, float32 [1, 3, H, W], whatever the batch size; raises as `__iter__` does."""
        self._skipped = []
        for item, image in self._decoded():
            yield item, image[np.newaxis]

    def _decoded(self) -> Iterator[tuple[ImageItem, NDArray[np.float32]]]:
        """The usable images in order; bad ones are noted on the way."""
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="edgeq-decode")
        waiting: deque[tuple[ImageItem, Future[NDArray[np.float32]]]] = deque()
        remaining = iter(self._images.items)
        try:
            while True:
                while len(waiting) < self._workers * _AHEAD and (item := next(remaining, None)) is not None:
                    waiting.append((item, pool.submit(self._load, item)))
                if not waiting:
                    return
                item, future = waiting.popleft()
                try:
                    image = future.result()
                except ImageError as error:
                    self._skip(item, error)
                else:
                    yield item, image
        finally:
            pool.shutdown(cancel_futures=True)

    def _load(self, item: ImageItem) -> NDArray[np.float32]:
        """Read and preprocess one image; runs in a worker."""
        return self._preprocess(self._images.read(item))

    def _skip(self, item: ImageItem, error: ImageError) -> None:
        """Note a bad image; raise ImageError when there are too many."""
        self._skipped.append(SkippedImage(item.name, error.what))
        named = [skipped.sentence for skipped in self._skipped[:_NAMED]]
        check_share(len(self._skipped), self._total, self._images.path, named)


def check_share(count: int, total: int, path: Path, named: Sequence[str]) -> None:
    """Raise ImageError where more than MAX_BAD_SHARE of a set cannot be used.

    Args:
        count: images that cannot.
        total: size of the set.
        path: of the set.
        named: some of them, in words.
    """
    if count > MAX_BAD_SHARE * total:
        raise ImageError(
            f"{count} of {total} images in {path} cannot be used, that is more than {MAX_BAD_SHARE:.0%}",
            causes=named,
            next_step="repair or remove these images",
        )
