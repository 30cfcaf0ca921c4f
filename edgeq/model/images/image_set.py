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
from edgeq.model.images.stores.base import ImageStore
from edgeq.model.images.stores.kinds import open_store

__all__ = ["IMAGE_SUFFIXES", "MAX_ENCODED_BYTES", "MAX_PIXELS", "ImageItem", "ImageSet", "rank"]

_HEAD_BYTES = 256 * 1024
_SPLITS = frozenset({"eval", "test", "testing", "train", "training", "val", "valid", "validation"})
"""Folders of a divided data set; COCO's have a year behind them."""
_PICTURES = frozenset({"images", "jpegimages", "leftimg8bit"})
_ANNOTATIONS = frozenset(
    {"annotations", "gtfine", "labels", "masks", "segmentationclass", "segmentationobject", "stuffthingmaps"}
)
"""Folders beside those of pictures, in which masks may lie that are images by their names."""


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
        notes: what was chosen of them, in sentences.
    """

    path: Path
    items: tuple[ImageItem, ...]
    ignored: int
    _store: ImageStore = field(repr=False, compare=False)
    notes: tuple[str, ...] = ()

    @classmethod
    def open(cls, path: Path, *, labelled: bool = False, calibration: bool = False) -> ImageSet:
        """Find the images at `path`, at any depth.

        Args:
            path: a folder or zip of image files; arrays (.npy, .npz), parquet files or tars, or a folder of such.
            labelled: demand that every image is in a folder named after its class, of at least two classes, and that
                they are not of several splits of a data set.
            calibration: of several splits take the one to train with, and leave out the masks and label images of COCO,
                YOLO and VOC trees.

        Raises:
            ImageError: there are no images, the zip is damaged or not safe, or labels are missing.
        """
        path = Path(path)
        store = open_store(path)
        names = store.names()
        items = tuple(ImageItem(name, store.label(name)) for name in names if _is_image(name))
        if not items:
            raise _no_images(path, names)
        found = cls(path, items, len(names) - len(items), store)
        if labelled:
            found._require_one_split()
            found._require_labels()
        return found._for_calibration() if calibration else found

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

    def _for_calibration(self) -> ImageSet:
        """Pictures alone, of one split; what was left out is noted."""
        pictures = self._pictures()
        notes = (
            [f"{len(self) - len(pictures)} images in {self.path} lie among labels and were left out"]
            if len(pictures) < len(self)
            else []
        )
        splits = _splits([PurePosixPath(item.name).parts[:-1] for item in pictures])
        if splits:
            ranked = sorted(splits, key=lambda parts: (_split_rank(parts[-1]), parts))
            chosen = ranked[0]
            others = ", ".join(f"{'/'.join(parts)}/ ({splits[parts]})" for parts in ranked[1:])
            notes.append(f"of {self.path}, the {splits[chosen]} images in {'/'.join(chosen)}/ are used, not {others}")
            pictures = [item for item in pictures if PurePosixPath(item.name).parts[: len(chosen)] == chosen]
        return replace(self, items=tuple(pictures), notes=tuple(notes)) if notes else self

    def _pictures(self) -> list[ImageItem]:
        """The images that are not below a folder of annotations which has pictures beside it."""
        folders = {parent.parts for item in self.items for parent in PurePosixPath(item.name).parents if parent.parts}
        beside = {parts[:-1] for parts in folders if parts[-1].lower() in _PICTURES or _has_year(parts[-1])}
        labels = {parts for parts in folders if parts[-1].lower() in _ANNOTATIONS and parts[:-1] in beside}
        return [
            item
            for item in self.items
            if not any(parent.parts in labels for parent in PurePosixPath(item.name).parents)
        ]

    def _require_one_split(self) -> None:
        """Raise ImageError where the images lie in `train`, `val` and the like: judged together they tell nothing."""
        counts = _splits([_above_class(item) for item in self.items])
        if not counts:
            return
        told = ", ".join(f"{parts[-1]}/ ({count})" for parts, count in sorted(counts.items()))
        names = ["/".join(parts) for parts in sorted(counts)]
        held_out = [
            name for kind in ("val", "test") for name in names if name.rpartition("/")[2].lower().startswith(kind)
        ]
        chosen = (held_out or names[-1:])[0]
        whole = "the files" if self.path.is_dir() else "an archive"
        raise ImageError(
            f"the images in {self.path} are of several splits: {told}",
            expected="one of them",
            next_step=f"give {self.path / chosen}"
            if (self.path / chosen).is_dir()
            else f"give {whole} of {chosen} alone",
        )

    def _require_labels(self) -> None:
        """Raise ImageError unless every image has a label and there are at least two."""
        bare = [item.name for item in self.items if item.label is None]
        if bare:
            raise ImageError(
                f"{len(bare)} of {len(self)} images in {self.path} lie in no folder, the first is {bare[0]}",
                expected="every image in a folder named after its class, or classes in the file: `labels` in an .npz",
            )
        if len(self.labels) < 2:
            raise ImageError(
                f"all images in {self.path} are of one class: {self.labels[0]}",
                expected="at least two folders named after classes",
                causes=("the path is that of one class; give the folder above it",),
            )


def _splits(folders: list[tuple[str, ...]]) -> dict[tuple[str, ...], int]:
    """The folders that divide a data set, each with its number of images; empty where there are no two of them.

    Args:
        folders: those above each image, from the top.
    """
    for depth in range(max(map(len, folders))):
        counts = Counter(parts[: depth + 1] for parts in folders if len(parts) > depth)
        if len(counts) > 1 and all(_split_name(parts[-1]) in _SPLITS for parts in counts):
            return dict(counts)
    return {}


def _above_class(item: ImageItem) -> tuple[str, ...]:
    """The folders above that of its class; all of them where the class is not said by a folder."""
    folders = PurePosixPath(item.name).parts[:-1]
    return folders[:-1] if item.label is None or folders[-1:] == (item.label,) else folders


def _split_name(folder: str) -> str:
    """`train` for `train2017`, which is COCO's."""
    return folder[:-4].lower() if _has_year(folder) else folder.lower()


def _has_year(folder: str) -> bool:
    return folder[-4:].isdecimal() and folder[:-4].lower() in _SPLITS


def _split_rank(folder: str) -> int:
    """What is trained with comes first, what is tested with last."""
    name = _split_name(folder)
    return 0 if name.startswith("train") else 1 if name.startswith(("val", "eval")) else 2


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
