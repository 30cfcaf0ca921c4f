"""What may be given as an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeq.errors import ImageError
from edgeq.model.images.decode import decode_image
from edgeq.model.images.stores.base import read_file

__all__ = ["ImageLike", "open_image"]

ImageLike = str | Path | bytes | Image.Image | NDArray[np.uint8]
"""A file's path, a file's bytes (JPEG, PNG, ...), a Pillow image, or pixels in RGB, uint8 [H, W, 3]."""

_NAME = "the image"


def open_image(image: ImageLike) -> Image.Image:
    """An image in mode RGB; a file's is turned upright as its EXIF says.

    Raises:
        ImageError: it cannot be read, or an array is not uint8 [H, W, 3].
    """
    if isinstance(image, str | Path):
        return decode_image(read_file(Path(image), str(image)), str(image))
    if isinstance(image, bytes):
        return decode_image(image, _NAME)
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ImageError(
            f"an image cannot be {type(image).__name__} of {array.dtype} {list(array.shape)}",
            expected="a path, a file's bytes, a Pillow image, or RGB pixels as uint8 [H, W, 3]",
        )
    return Image.fromarray(array)
