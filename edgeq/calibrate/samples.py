"""What a network is calibrated on: images, or captions for a text encoder. The stages see neither, only `Samples`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from edgeq.errors import CalibrationError
from edgeq.model.images.image_set import ImageItem, ImageSet, rank
from edgeq.model.images.preprocess import Preprocess
from edgeq.model.images.stream import ImageStream

__all__ = ["Array", "CaptionSamples", "ImageSamples", "Samples"]

Array = NDArray[Any]
"""One sample as the graph's input, [1, ...]: float32 pixels [1, 3, H, W], or int64 token ids [1, length]."""

_HELD_BACK: Final = 64
_SMALL_IMAGE: Final = 96 * 96  # up to this size 64 images are held back; fewer of larger ones, 12 at the least
_HELD_BACK_LARGE: Final = 12


class Samples(Protocol):
    """Samples in an order of their own, each under its name. Values of a class do not change."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of all samples, in order."""

    @property
    def preprocess(self) -> Preprocess | None:
        """From an image to the graph's input; None where that is no image."""

    @property
    def preprocess_sha256(self) -> str:
        """Digest of what the samples went through, for the scales."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the input's last axes, at which the graph may be looked at."""

    @property
    def most_held_back(self) -> int:
        """How many of them `auto` can afford to judge by."""

    def __len__(self) -> int:
        """How many there are."""

    def sample(self, count: int, seed: int = 0) -> Self:
        """At most `count` of them, the same for the same seed."""

    def without(self, names: Iterable[str]) -> Self:
        """Those that do not have one of these names."""

    def digest(self, name: str) -> str:
        """SHA-256 of one sample, in hexadecimal."""

    def arrays(self, skipped: list[str], total: int | None = None) -> Iterator[tuple[str, Array]]:
        """The usable samples in order, each by its name and [1, ...] as the graph takes it.

        Args:
            skipped: gets the names of those that cannot be used, at the end, or where the iterator is closed.
            total: size of the set that these are a part of; too large a share of unusable ones is refused.
        """


@dataclass(frozen=True)
class ImageSamples:
    """Images as float32 pixels [1, 3, H, W].

    Attributes:
        images: the set.
        preprocess: from one of them to pixels.
    """

    images: ImageSet
    preprocess: Preprocess

    @property
    def names(self) -> tuple[str, ...]:
        """Sorted."""
        return tuple(item.name for item in self.images.items)

    @property
    def preprocess_sha256(self) -> str:
        """The preprocessing's own digest."""
        return self.preprocess.digest

    @property
    def sizes(self) -> tuple[int, ...]:
        """Height and width."""
        return self.preprocess.height, self.preprocess.width

    @property
    def most_held_back(self) -> int:
        """64 of up to 96 x 96 pixels or 12 of 224 x 224, which take as long."""
        affordable = _HELD_BACK * _SMALL_IMAGE // (self.preprocess.height * self.preprocess.width)
        return min(_HELD_BACK, max(_HELD_BACK_LARGE, affordable))

    def __len__(self) -> int:
        """How many images there are, those that cannot be read included."""
        return len(self.images)

    def sample(self, count: int, seed: int = 0) -> ImageSamples:
        """As `ImageSet.sample`: equally many from each folder."""
        return replace(self, images=self.images.sample(count, seed))

    def without(self, names: Iterable[str]) -> ImageSamples:
        """The images that do not have one of these names."""
        left_out = set(names)
        return replace(self, images=self.images.without(item for item in self.images.items if item.name in left_out))

    def digest(self, name: str) -> str:
        """Of the file's bytes; raises ImageError when it cannot be read."""
        return self.images.digest(self._items[name])

    def arrays(self, skipped: list[str], total: int | None = None) -> Iterator[tuple[str, Array]]:
        """Decoded ahead, in constant memory; as `Samples.arrays`.

        Raises:
            ImageError: too many cannot be read.
        """
        stream = ImageStream(self.images, self.preprocess, batch_size=1, total=total)
        try:
            for item, pixels in stream.singles():
                yield item.name, pixels
        finally:
            skipped.extend(image.name for image in stream.skipped)

    @cached_property
    def _items(self) -> dict[str, ImageItem]:
        return {item.name: item for item in self.images.items}


@dataclass(frozen=True, eq=False)
class CaptionSamples:
    """Captions as int64 token ids [1, length]; their lengths may differ.

    Attributes:
        ids: of each caption, int64 [1, length], by its name.
        preprocess_sha256: digest of the tokenizer and whatever else the ids depend on.

    Raises:
        CalibrationError: ids have another shape or type.
    """

    ids: Mapping[str, NDArray[np.int64]]
    preprocess_sha256: str

    def __post_init__(self) -> None:
        """Check every caption."""
        for name, ids in self.ids.items():
            if ids.dtype != np.int64 or ids.ndim != 2 or len(ids) != 1 or not ids.size:
                raise CalibrationError(
                    f"caption {name} is {ids.dtype} {list(ids.shape)}", expected="token ids, int64 [1, length]"
                )

    @property
    def names(self) -> tuple[str, ...]:
        """In the order in which they were given."""
        return tuple(self.ids)

    @property
    def preprocess(self) -> None:
        """None: ids are no pixels."""
        return

    @property
    def sizes(self) -> tuple[int, ...]:
        """The length of the longest."""
        return (max((ids.shape[1] for ids in self.ids.values()), default=1),)

    @property
    def most_held_back(self) -> int:
        """A caption is as cheap as a small image."""
        return _HELD_BACK

    def __len__(self) -> int:
        """How many captions there are."""
        return len(self.ids)

    def sample(self, count: int, seed: int = 0) -> CaptionSamples:
        """At most `count` captions, by a rank that does not depend on the others.

        Raises:
            CalibrationError: `count` is below 1.
        """
        if count < 1:
            raise CalibrationError(f"a sample of {count} captions was asked for, expected at least 1")
        chosen = set(sorted(self.ids, key=lambda name: rank(name, seed))[:count])
        return self.without(name for name in self.ids if name not in chosen)

    def without(self, names: Iterable[str]) -> CaptionSamples:
        """The captions that do not have one of these names."""
        left_out = set(names)
        return replace(self, ids={name: ids for name, ids in self.ids.items() if name not in left_out})

    def digest(self, name: str) -> str:
        """Of the ids' bytes, little endian."""
        return hashlib.sha256(self.ids[name].astype("<i8").tobytes()).hexdigest()

    def arrays(self, skipped: list[str], total: int | None = None) -> Iterator[tuple[str, Array]]:  # noqa: ARG002
        """All of them: there is nothing about ids that could not be used; as `Samples.arrays`."""
        yield from self.ids.items()
