"""Images for calibration and evaluation: a folder or a zip, in an order that does not depend on which."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from PIL import Image

from edgeq.errors import ImageError
from edgeq.model.images.decode import IMAGE_SUFFIXES, MAX_ENCODED_BYTES, MAX_PIXELS, decode_image, image_size
from edgeq.model.images.store import ImageStore, open_store

__all__ = ["IMAGE_SUFFIXES", "MAX_ENCODED_BYTES", "MAX_PIXELS", "ImageItem", "ImageSet", "rank"]

_HEAD_BYTES = 256 * 1024
_NO_CLASSES = frozenset({"image", "images", "img", "imgs", "jpeg", "jpegs", "jpg", "photos", "pictures", "png"})
"""Folders that hold a class's images, and are none."""
_SPLITS = frozenset({"eval", "test", "testing", "train", "training", "val", "valid", "validation"})
"""Folders of a divided data set."""


@dataclass(frozen=True, order=True)
class ImageItem:
    """One image: its name below the folder or in the zip, and the folder that may name its class (None at the top).

    That is the nearest one that is not called `images` or the like.
    """

    name: str
    label: str | None


@dataclass(frozen=True)
class ImageSet:
    """Images in the order of their names. Reading is safe from several threads.

    Attributes:
        path: the folder or zip.
        items: the images, sorted by name.
        ignored: how many other, not hidden files are there.
    """

    path: Path
    items: tuple[ImageItem, ...]
    ignored: int
    _store: ImageStore = field(repr=False, compare=False)

    @classmethod
    def open(cls, path: Path, *, labelled: bool = False) -> ImageSet:
        """Find the images at `path`, at any depth.

        Args:
            path: a folder or a zip.
            labelled: demand that every image is in a folder named after its class, of at least two classes, and that
                they are not of several splits of a data set.

        Raises:
            ImageError: there are no images, the zip is damaged or not safe, or labels are missing.
        """
        path = Path(path)
        store = open_store(path)
        names = store.names()
        items = tuple(_item(name) for name in names if _is_image(name))
        if not items:
            raise _no_images(path, names)
        found = cls(path, items, len(names) - len(items), store)
        if labelled:
            found._require_one_split()
            found._require_labels()
        return found

    def __len__(self) -> int:
        """The number of images."""
        return len(self.items)

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names, sorted."""
        return tuple(sorted({item.label for item in self.items if item.label is not None}))

    def read(self, item: ImageItem) -> Image.Image:
        """Decode one image: mode RGB, upright.

        Raises:
            ImageError: it is damaged, cut short, too large, or gone.
        """
        return decode_image(self._store.read(item.name), item.name)

    def size(self, item: ImageItem) -> tuple[int, int]:
        """Height and width of one image, upright; from its header, where that is enough.

        Raises:
            ImageError: it is damaged, too large, or gone.
        """
        with suppress(ImageError):  # a header may be long, or lie at the end of the file
            return image_size(self._store.head(item.name, _HEAD_BYTES), item.name)
        return image_size(self._store.read(item.name), item.name)

    def digest(self, item: ImageItem) -> str:
        """The SHA-256 of one image's encoded bytes, in hexadecimal; raises ImageError when it cannot be read."""
        return hashlib.sha256(self._store.read(item.name)).hexdigest()

    def sample(self, count: int, seed: int = 0) -> ImageSet:
        """At most `count` of the images: equally many from each folder as far as possible, the same for the same seed.

        Raises:
            ImageError: `count` is below 1.
        """
        if count < 1:
            raise ImageError(f"a sample of {count} images was asked for, expected at least 1")
        if count >= len(self):
            return self
        strata: dict[str | None, list[ImageItem]] = {}
        for item in sorted(self.items, key=lambda item: rank(item.name, seed)):
            strata.setdefault(item.label, []).append(item)
        shares = _shares([len(stratum) for stratum in strata.values()], count)
        chosen = [item for stratum, share in zip(strata.values(), shares, strict=True) for item in stratum[:share]]
        return replace(self, items=tuple(sorted(chosen, key=lambda item: item.name)))

    def without(self, others: Iterable[ImageItem]) -> ImageSet:
        """The images that are not among `others`; there may be none left."""
        left_out = set(others)
        return replace(self, items=tuple(item for item in self.items if item not in left_out))

    def _require_one_split(self) -> None:
        """Raise ImageError where the images lie in `train`, `val` and the like: judged together they tell nothing."""
        above = [PurePosixPath(item.name).parts[:-2] for item in self.items]
        for depth in range(max(map(len, above))):
            counts = Counter(parts[: depth + 1] for parts in above if len(parts) > depth)
            if len(counts) < 2 or any(parts[-1].lower() not in _SPLITS for parts in counts):
                continue
            told = ", ".join(f"{parts[-1]}/ ({count})" for parts, count in sorted(counts.items()))
            names = ["/".join(parts) for parts in sorted(counts)]
            chosen = next((name for name in names if name.rpartition("/")[2].lower().startswith("val")), names[-1])
            raise ImageError(
                f"the images in {self.path} are of several splits: {told}",
                expected="one of them",
                next_step=f"give {self.path / chosen}" if self.path.is_dir() else f"give an archive of {chosen} alone",
            )

    def _require_labels(self) -> None:
        """Raise ImageError unless every image has a label and there are at least two."""
        bare = [item.name for item in self.items if item.label is None]
        if bare:
            raise ImageError(
                f"{len(bare)} of {len(self)} images in {self.path} lie in no folder, the first is {bare[0]}",
                expected="every image in a folder named after its class",
            )
        if len(self.labels) < 2:
            raise ImageError(
                f"all images in {self.path} are of one class: {self.labels[0]}",
                expected="at least two folders named after classes",
                causes=("the path is that of one class; give the folder above it",),
            )


def _item(name: str) -> ImageItem:
    """The item for a file name."""
    folders = PurePosixPath(name).parts[:-1]
    named = next((folder for folder in reversed(folders) if folder.lower() not in _NO_CLASSES), None)
    return ImageItem(name, named or (folders[-1] if folders else None))


def _is_image(name: str) -> bool:
    """Whether the name ends like that of an image."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def rank(name: str, seed: int) -> bytes:
    """A pseudorandom order which does not depend on platform, version or the other images."""
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def _shares(sizes: list[int], count: int) -> list[int]:
    """Split `count` over strata as equally as their sizes allow; a remainder goes to the first ones."""
    shares = [0] * len(sizes)
    while (left := count - sum(shares)) > 0:
        open_strata = [index for index, size in enumerate(sizes) if shares[index] < size]
        each, extra = divmod(left, len(open_strata))
        for position, index in enumerate(open_strata):
            shares[index] = min(sizes[index], shares[index] + each + (position < extra))
    return shares


def _no_images(path: Path, names: tuple[str, ...]) -> ImageError:
    """The error for a place without images, naming what is there instead."""
    found = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "nothing"
    return ImageError(
        f"{path} has no images; found: {found}",
        expected=f"files ending in {' '.join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))}",
        causes=(
            "the path is not the one meant",
            "the images are inside another archive",
            "the images have other endings, or none",
        ),
        next_step="give a folder or a zip with images",
    )
