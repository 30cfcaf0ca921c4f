"""Small pictures as data URIs: decoded within bounds and encoded again, so that no byte goes out as it came."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from PIL import Image

from edgeq.bundle.directory import read_small
from edgeq.bundle.errors import BundleError
from edgeq.errors import ImageError, InputError
from edgeq.model.images.decode import decode_image
from edgeq.model.images.image_set import ImageSet

__all__ = ["THUMBNAIL", "Album", "data_uri", "small_jpeg"]

THUMBNAIL: Final = 192
"""Longest side of a picture in a report, in pixels."""

_MOST_BYTES: Final = 64 << 20
_QUALITY: Final = 85


def small_jpeg(image: Image.Image, side: int = THUMBNAIL) -> bytes:
    """A JPEG of an image (mode RGB) that is made smaller where a side is longer than `side`."""
    small = image.copy()
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def data_uri(image: Image.Image, side: int = THUMBNAIL) -> str:
    """A picture that stands in a page itself."""
    return f"data:image/jpeg;base64,{base64.b64encode(small_jpeg(image, side)).decode('ascii')}"


class Album:
    """Pictures of a bundle, and of a folder that was given beside it.

    Args:
        bundle: its directory.
        images: a folder or zip in which images that the bundle names are looked for; None for none.

    Raises:
        ImageError: there are no images in `images`.
    """

    def __init__(self, bundle: Path, images: Path | None = None) -> None:
        self._bundle = bundle
        self._images = None if images is None else ImageSet.open(images)
        self._items = {} if self._images is None else {item.name: item for item in self._images.items}

    def in_bundle(self, name: str, side: int = THUMBNAIL) -> str | None:
        """A file of the bundle; None where it is not there, or no picture."""
        return self._made(lambda: decode_image(read_small(self._bundle / name, _MOST_BYTES), name), side)

    def named(self, name: str) -> str | None:
        """An image by the name that it was judged under; None where no folder was given, or it is not in it."""
        item, images = self._items.get(name), self._images
        return None if item is None or images is None else self._made(lambda: images.read(item), THUMBNAIL)

    @staticmethod
    def _made(read: Callable[[], Image.Image], side: int) -> str | None:
        with suppress(ImageError, BundleError, InputError, OSError):
            return data_uri(read(), side)
        return None
