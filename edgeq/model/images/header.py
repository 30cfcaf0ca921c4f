"""What an image would cost to decode, from its header and the marks in its file: nothing is decoded for it.

A small file may hold many pixels, and a small number of pixels much work: a JPEG is decoded once for each of its scans,
and a reader goes through every piece of a file, of which millions fit into it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from edgeq.errors import ImageError

__all__ = ["MAX_SIDE", "ImageParts", "check_work", "decode_bytes", "read_parts"]

MAX_SIDE: Final = 65_535
"""The longest side of an image, in pixels: that of a JPEG."""

_MOST_PIECES: Final = 2_000
"""Segments of a JPEG, chunks of a PNG beside its pixels, chunks of a WebP."""

_MOST_PIXEL_PIECES: Final = 100_000
_MOST_SCANS: Final = 100
_MOST_SCANNED: Final = 1_000_000_000
"""Pixels of a JPEG, once for each scan: 20 scans of 50 million pixels."""

_MOST_FRAMES: Final = 100
_MOST_RUN_LENGTH: Final = 1_000_000
"""Pixels of a BMP with run lengths, which Pillow decodes in Python."""

_PREFIX, _START, _END, _SCAN, _ALONE = 0xFF, 0xD8, 0xD9, 0xDA, 0x01  # ITU-T T.81, table B.1
_IS_MARKER: Final = np.isin(np.arange(256), [_ALONE, *range(0xC0, 0xD0), *range(0xD8, 0xFF)])
"""By the byte behind 0xFF: neither a pixel's 0xFF nor the end of a restart interval."""

_WINDOW: Final = 1 << 15
_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"

_ALPHA: Final = ("RGBA", "RGBa", "LA", "La", "PA")
_ONE_BYTE: Final = ("1", "L", "P")


@dataclass(frozen=True)
class ImageParts:
    """What a file consists of.

    Attributes:
        scans: of a JPEG; 1 of anything else.
        frames: of an animated WebP; 1 of anything else.
        run_lengths: it is a BMP with these.
    """

    scans: int = 1
    frames: int = 1
    run_lengths: bool = False


def read_parts(data: bytes, name: str) -> ImageParts:
    """Count the parts of an image file; a kind that is not known has none.

    Args:
        data: the encoded file.
        name: what to call it in an error.

    Raises:
        ImageError: it has so many parts that it is made to be slow.
    """
    if data.startswith(_JPEG):
        kinds = list(_bounded(_jpeg_segments(data), _MOST_PIECES, name))
        parts = ImageParts(scans=max(kinds.count(_SCAN), 1))
    elif data.startswith(_PNG):
        chunks = _bounded(_chunks(data, 8, ">I4s", behind=4), _MOST_PIXEL_PIECES, name)
        list(_bounded((kind for kind in chunks if kind != b"IDAT"), _MOST_PIECES, name))
        return ImageParts()
    elif data[:4] == b"RIFF":
        chunks = _bounded(_chunks(data, 12, "<4sI", even=True), _MOST_PIECES, name)
        parts = ImageParts(frames=max(list(chunks).count(b"ANMF"), 1))
    else:
        # The short header, of 12 bytes, knows no compression.
        long_header = data[:2] == b"BM" and data[14:18] != b"\x0c\0\0\0"
        return ImageParts(run_lengths=long_header and data[30:31] in (b"\1", b"\2"))
    if parts.scans > _MOST_SCANS:
        raise _too_much(name, "scans", _MOST_SCANS)
    if parts.frames > _MOST_FRAMES:
        raise _too_much(name, "frames", _MOST_FRAMES)
    return parts


def check_work(size: tuple[int, int], parts: ImageParts, name: str) -> None:
    """Refuse an image that takes too long to decode, or has too long a side.

    Args:
        size: width and height.
        parts: of its file.
        name: what to call it in an error.

    Raises:
        ImageError: of such an image.
    """
    pixels = size[0] * size[1]
    if max(size) > MAX_SIDE:
        raise ImageError(
            f"{name} is too large: {size[0]} x {size[1]} pixels", expected=f"sides of at most {MAX_SIDE:,} pixels"
        )
    if parts.scans > 1 and parts.scans * pixels > _MOST_SCANNED:
        raise ImageError(
            f"{name} has {parts.scans} scans of {pixels:,} pixels",
            expected=f"at most {_MOST_SCANNED:,} pixels in all scans together",
            next_step="save it again as a baseline JPEG",
        )
    if parts.run_lengths and pixels > _MOST_RUN_LENGTH:
        raise ImageError(
            f"{name} is a BMP with run lengths and {pixels:,} pixels",
            expected=f"at most {_MOST_RUN_LENGTH:,} pixels",
            next_step="save it again without compression, or as a PNG",
        )


def decode_bytes(image: Image.Image) -> int:
    """Bytes that `edgeq.model.images.decode.decode_image` takes at most for an image, its result included.

    Args:
        image: opened by Pillow, and not decoded.
    """
    if image.mode in _ALPHA or "transparency" in image.info:
        each = 22  # twice its pixels, white ground, both laid over each other, and RGB: Pillow takes 4 for each
    elif image.mode in _ONE_BYTE:
        each = 8
    else:
        each = 14
    each += 9 if image.format == "WEBP" else 0  # the frame and the one before
    return each * image.width * image.height


def _bounded(kinds: Iterator[bytes | int], most: int, name: str) -> Iterator[bytes | int]:
    """The same; ImageError where there are more."""
    for number, kind in enumerate(kinds):
        if number >= most:
            raise _too_much(name, "parts", most)
        yield kind


def _jpeg_segments(data: bytes) -> Iterator[int]:
    """Markers of the first image of a file, until its end; those between restart intervals left out."""
    at = len(_JPEG)
    while (found := _next_marker(data, at)) is not None:
        kind, at = data[found + 1], found + 2
        if kind == _END:
            return
        yield kind
        if kind not in (_START, _ALONE):
            at += max(int.from_bytes(data[at : at + 2], "big"), 2)


def _next_marker(data: bytes, at: int) -> int | None:
    """Where the next marker's 0xFF is, from `at` on; pixels have many of these bytes, which are none."""
    if data[at : at + 1] == b"\xff" and _IS_MARKER[data[min(at + 1, len(data) - 1)]]:  # as in front of the pixels
        return at
    values = np.frombuffer(data, np.uint8)
    for start in range(at, len(data) - 1, _WINDOW):
        window = values[start : start + _WINDOW + 1]
        places = np.flatnonzero(window[:-1] == _PREFIX)
        markers = places[_IS_MARKER[window[places + 1]]]
        if len(markers):
            return start + int(markers[0])
    return None


def _chunks(data: bytes, at: int, form: str, *, behind: int = 0, even: bool = False) -> Iterator[bytes]:
    """Names of the chunks of a PNG or a RIFF file.

    Args:
        data: the file.
        at: where the first one is.
        form: of length and name.
        behind: bytes behind each.
        even: an odd length is filled up.
    """
    while at + 8 <= len(data):
        one, other = struct.unpack_from(form, data, at)
        kind, length = (one, other) if isinstance(one, bytes) else (other, one)
        yield kind
        at += 8 + length + behind + (length % 2 if even else 0)


def _too_much(name: str, what: str, most: int) -> ImageError:
    return ImageError(f"{name} has more than {most:,} {what}", causes=("it was made to be slow to read",))
