"""One image: encoded bytes to 8-bit RGB pixels, with limits that hold before anything is decoded."""

from __future__ import annotations

import io
import re
from typing import Protocol

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps

from edgeq.errors import ImageError
from edgeq.model.images.header import ImageParts, check_work, read_parts

__all__ = ["IMAGE_SUFFIXES", "MAX_ENCODED_BYTES", "MAX_PIXELS", "Decode", "decode_image", "image_size"]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
"""File name endings taken for images, in lower case."""

MAX_PIXELS = 64_000_000
"""The largest image decoded, in pixels (192 MB as RGB); refused from its header beyond that."""

MAX_ENCODED_BYTES = 128 * 2**20
"""The largest encoded image read, in bytes."""

_ON_ITS_SIDE = (5, 6, 7, 8)
_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE = 258, 281  # TIFF 6.0, section 8
_SIGNIFICANT_BITS = re.compile(rb"\0\0\0\x01sBIT(.)", re.DOTALL)  # PNG, 11.3.2.4: of grey one byte
_PNG_HEAD = 4096  # sBIT is in front of the palette and the pixels
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")  # the JPEG reader takes MPO (several pictures in one) as well


class Decode(Protocol):
    """As `decode_image`."""

    def __call__(
        self, data: bytes, name: str, *, side: int | None = None, parts: ImageParts | None = None
    ) -> Image.Image:
        """Mode RGB, upright; raises ImageError."""
        ...


def decode_image(data: bytes, name: str, *, side: int | None = None, parts: ImageParts | None = None) -> Image.Image:
    """Decode an image to mode RGB, upright.

    The EXIF orientation is applied, transparency is laid over white and 16-bit grey is brought to 8 bits, from the
    depth that its file says, such as 12 bits.

    Args:
        data: the encoded file.
        name: what to call it in an error.
        side: pixels that suffice for its width and its height: a JPEG is then decoded at a half, a quarter or an eighth
            where that is enough, which is quicker. None decodes every pixel.
        parts: of the file, where they were counted already.

    Raises:
        ImageError: it is damaged, cut short, of an unknown format, has more than MAX_PIXELS pixels, or was made to be
            slow to decode.
    """
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # another library may have set it; a half-grey image is not data
    try:
        parts = parts or read_parts(data, name)
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_size(image.size, name)
            check_work(image.size, parts, name)
            if side is not None:
                image.draft("RGB", (side, side))
            image.load()
            depth = _said_depth(image, data) if image.mode.startswith("I;16") else 16
            return _to_rgb(ImageOps.exif_transpose(image), depth)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(name, "") from error
    except (
        Exception
    ) as error:  # a decoder given hostile bytes raises nearly anything: OSError, SyntaxError, struct.error, ...
        raise ImageError(
            f"{name} cannot be decoded: {error}",
            causes=("the file is damaged or cut short", "it is not what its name says"),
            next_step="remove it or replace it",
        ) from error


def image_size(data: bytes, name: str) -> tuple[int, int]:
    """Height and width of an image as `decode_image` would give it, from its header; no pixel is decoded.

    Args:
        data: the encoded file, or as much of it as holds the header.
        name: what to call it in an error.

    Raises:
        ImageError: the header is damaged or cut short, of an unknown format, or names more than MAX_PIXELS pixels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_size(image.size, name)
            turned = _turned(image)
            return (image.width, image.height) if turned else (image.height, image.width)
    except ImageError:
        raise
    except Exception as error:  # as in `decode_image`
        raise ImageError(f"the header of {name} cannot be read: {error}") from error


def _turned(image: Image.Image) -> bool:
    """Whether the size is that of an image which the EXIF orientation lays on its side.

    Pillow gives a TIFF's size upright. A PNG may have its orientation behind its pixels, and is then not asked.
    """
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return False
    return image.getexif().get(ExifTags.Base.Orientation, 1) in _ON_ITS_SIDE


def _check_size(size: tuple[int, int], name: str) -> None:
    """Raise ImageError when an image of `size` (width, height) has too many pixels, or none."""
    width, height = size
    if width * height > MAX_PIXELS:
        raise _too_large(name, f"{width} x {height} pixels")
    if width < 1 or height < 1:
        raise ImageError(f"{name} has no pixels: {width} x {height}")


def _too_large(name: str, size: str) -> ImageError:
    """The error for an image beyond MAX_PIXELS."""
    return ImageError(
        f"{name} is too large{': ' + size if size else ''}",
        expected=f"at most {MAX_PIXELS:,} pixels",
        next_step="scale it down or remove it",
    )


def _said_depth(image: Image.Image, data: bytes) -> int:
    """Bits of a 16-bit grey image's samples, 8..16, where its file says so; else 16.

    TIFF says it in MaxSampleValue, or stores no more than so many (BitsPerSample). PNG says in sBIT how many bits the
    samples had before they were brought to 16; what was never brought there has bits set where others have none.
    """
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        stored, most = tags.get(_BITS_PER_SAMPLE, (16,)), tags.get(_MAX_SAMPLE_VALUE, (0xFFFF,))
        most = most[0] if isinstance(most, tuple) else most
        return max(8, min(int(stored[0]), int(most).bit_length()))
    match = _SIGNIFICANT_BITS.search(data[:_PNG_HEAD])
    depth = max(8, min(16, match[1][0])) if image.format == "PNG" and match else 16
    samples = np.asarray(image)
    shifted = samples.max(initial=0) >> depth or not (samples & ((1 << (16 - depth)) - 1)).any()
    return 16 if shifted else depth


def _to_rgb(image: Image.Image, depth: int) -> Image.Image:
    """Any 8-bit or 16-bit mode to RGB; 16-bit grey from samples of `depth` bits."""
    if image.mode.startswith("I;16"):
        # Pillow would clip 16-bit grey at 255, which makes it white.
        samples = np.minimum(np.asarray(image), (1 << depth) - 1)
        return Image.fromarray((samples >> (depth - 8)).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels are of Pillow's mode {image.mode}, expected 8 or 16 bits per channel")
    if "A" in image.getbands() or "a" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
