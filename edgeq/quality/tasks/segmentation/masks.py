"""What is right for each pixel: PNG files of class numbers, 255 for what is not judged, named as their images."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeq.errors import ImageError
from edgeq.model.images.decode import MAX_PIXELS
from edgeq.model.images.image_set import ImageItem, ImageSet
from edgeq.model.images.stores.base import ImageStore
from edgeq.model.images.stores.kinds import open_store
from edgeq.quality.tasks.base import Examples

__all__ = ["IGNORED", "MAX_IMAGES", "LabelledMasks", "Mask", "check_classes", "read_masks"]

IGNORED: Final = 255
MAX_IMAGES: Final = 20_000

_FOLDERS: Final = frozenset({"annotation", "annotations", "labels", "mask", "masks", "segmentationclass"})
_MODES: Final = ("1", "I", "I;16", "L", "P")
_LOOKED_INTO: Final = 32
_SHOWN: Final = 5


@dataclass(frozen=True)
class Mask:
    """The mask of one image.

    Attributes:
        name: of its file.
        height, width: in pixels, which are the image's.
    """

    name: str
    height: int
    width: int
    _store: ImageStore

    def read(self) -> NDArray[np.int64]:
        """The class of each pixel, int64 [height, width]; raises ImageError where it cannot be decoded."""
        try:
            with Image.open(io.BytesIO(self._store.read(self.name)), formats=("PNG",)) as image:
                values: NDArray[np.int64] = np.asarray(image).astype(np.int64)
        except ImageError:
            raise
        except Exception as error:  # a decoder given hostile bytes raises nearly anything
            raise ImageError(f"{self.name} cannot be decoded: {error}") from error
        if values.shape != (self.height, self.width):
            raise ImageError(f"{self.name} has another size than its header says")
        return values


@dataclass(frozen=True)
class LabelledMasks(Examples[Mask]):
    """Images with their masks.

    Attributes:
        values: class numbers in some of the masks.
    """

    values: frozenset[int] = frozenset()


def read_masks(path: Path, classes: int | None) -> LabelledMasks:
    """Images and a mask for each.

    A mask is a PNG in a folder called `masks`, `labels` or `annotations`, with the name of its image; or it lies beside
    an image of another format.

    Args:
        path: a folder or a zip.
        classes: of the model; None where its config does not name them.

    Raises:
        ImageError: an image has no mask or several, or a mask is none: of colours, of another size, damaged, or with a
            class that the model does not have.
    """
    store, images = open_store(path), ImageSet.open(path)
    pairs = _pairs(images)
    if not pairs:
        raise ImageError(
            f"{path} has no masks",
            expected="images/x.jpg and masks/x.png, whose pixels are class numbers",
        )
    if len(pairs) > MAX_IMAGES:
        raise ImageError(f"{path} has {len(pairs):,} images with masks", expected=f"at most {MAX_IMAGES:,}")
    truth = {item.name: _mask(store, mask, item, images) for item, mask in pairs.items()}
    left_out = [item for item in images.items if item not in pairs]
    return LabelledMasks(images.without(left_out), truth, frozenset(_values(truth, classes)))


def _pairs(images: ImageSet) -> dict[ImageItem, ImageItem]:
    """The mask of each image."""
    masks: dict[str, list[ImageItem]] = defaultdict(list)
    for item in filter(_is_mask, images.items):
        masks[_stem(item)].append(item)
    pictures = [item for item in images.items if not _is_mask(item)]
    if not masks:
        beside = {PurePosixPath(item.name).with_suffix(""): item for item in images.items if _is_png(item)}
        pictures = [item for item in images.items if not _is_png(item)]
        stems = {item: PurePosixPath(item.name).with_suffix("") for item in pictures}
        return {item: beside[stem] for item, stem in stems.items() if stem in beside}
    found: dict[ImageItem, ImageItem] = {}
    missing = []
    for item in pictures:
        same = masks.get(_stem(item), [])
        exact = [mask for mask in same if _below(mask) == _below(item)] or same
        if len(exact) > 1:
            raise ImageError(f"{item.name} has several masks: {', '.join(one.name for one in exact[:_SHOWN])}")
        if exact:
            found[item] = exact[0]
        else:
            missing.append(item.name)
    if missing:
        raise ImageError(
            f"{len(missing)} of {len(pictures)} images in {images.path} have no mask, the first is {missing[0]}",
            expected="a PNG of the same name in the folder of masks",
        )
    return found


def _is_png(item: ImageItem) -> bool:
    return PurePosixPath(item.name).suffix.lower() == ".png"


def _is_mask(item: ImageItem) -> bool:
    return _is_png(item) and any(part.lower() in _FOLDERS for part in PurePosixPath(item.name).parts[:-1])


def _stem(item: ImageItem) -> str:
    return PurePosixPath(item.name).stem


def _below(item: ImageItem) -> tuple[str, ...]:
    """The folders of a file but for those that say whether it is an image or a mask."""
    parts = PurePosixPath(item.name).parts[:-1]
    return tuple(part for part in parts if part.lower() not in _FOLDERS | {"image", "images", "jpegimages"})


def _mask(store: ImageStore, mask: ImageItem, item: ImageItem, images: ImageSet) -> Mask:
    """From its header."""
    try:
        with Image.open(io.BytesIO(store.head(mask.name, 1 << 16)), formats=("PNG",)) as image:
            mode, (width, height) = image.mode, image.size
    except ImageError:
        raise
    except Exception as error:  # as in `Mask.read`
        raise ImageError(f"the header of {mask.name} cannot be read: {error}") from error
    if mode not in _MODES or width * height > MAX_PIXELS:
        raise ImageError(
            f"{mask.name} is no mask: {width} x {height} pixels of mode {mode}",
            expected="a grey or indexed PNG, whose pixels are class numbers",
            causes=("classes are written as colours: make class numbers of them",),
        )
    if images.size(item) != (height, width):
        raise ImageError(f"{mask.name} has {width} x {height} pixels, its image {item.name} has others")
    return Mask(mask.name, height, width, store)


def _values(truth: Mapping[str, Mask], classes: int | None) -> Iterator[int]:
    """Class numbers of some masks, spread over the set."""
    some = list(truth.values())[:: max(len(truth) // _LOOKED_INTO, 1)][:_LOOKED_INTO]
    for mask in some:
        found = [int(value) for value in np.unique(mask.read())]
        if classes is not None:
            check_classes(mask, found, classes)
        yield from found


def check_classes(mask: Mask, values: list[int], classes: int) -> None:
    """Raise ImageError where a mask has a class that the model does not.

    Args:
        mask: for its name.
        values: that are in it.
        classes: of the model.
    """
    other = next((value for value in values if value >= classes and value != IGNORED), None)
    if other is not None:
        raise ImageError(
            f"{mask.name} has the class {other}, the model has {classes}",
            expected=f"0 to {classes - 1}, and {IGNORED} for what is not judged",
            causes=("classes count from 1, with 0 for none of them: subtract 1, and write 255 for 0",),
        )
