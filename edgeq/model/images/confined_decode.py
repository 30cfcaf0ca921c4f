"""Decode an image in a child process: what a decoder makes of a hostile file is bounded, and can be killed.

The bounds come from the image's header, which says how many pixels it has: a small one that takes long is hostile.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final

from PIL import Image

from edgeq.confined.limits import Limits, Made
from edgeq.confined.pool import Pool
from edgeq.errors import ImageError, LimitError
from edgeq.model.images.decode import MAX_PIXELS, decode_image
from edgeq.model.images.header import ImageParts

__all__ = ["DECODER", "ConfinedDecoder", "decode_limits"]

DECODER: Final = "edgeq.model.images.confined_decode"
"""The module that a child loads beforehand."""

_TOGETHER: Final = 256 << 10
_LEAST_S, _S_PER_MEGAPIXEL = 4.0, 0.4
_BUSY_S = 8.0
"""So much more may pass: a device that swaps, or has other work, gives a child a part of a processor."""

_LEAST_BYTES, _BYTES_PER_PIXEL = 64 << 20, 24
"""RGBA of 16 bits, as it is and over white, and its RGB: 19 bytes."""


class ConfinedDecoder:
    """Decodes images in the children of a pool.

    Args:
        pool: whose children have loaded DECODER.
        limits: of an image, by its pixels.
    """

    def __init__(self, pool: Pool, limits: Callable[[int], Limits] | None = None) -> None:
        self._pool = pool
        self._limits = limits or decode_limits

    def decode(
        self, data: bytes, name: str, *, side: int | None = None, parts: ImageParts | None = None
    ) -> Image.Image:
        """As `edgeq.model.images.decode.decode_image`: mode RGB, upright.

        Args:
            data, name, side, parts: as there.

        Raises:
            ImageError: as there, or the image takes more time or memory than one of its size may.
        """
        limits = self._limits(min(_pixels(data, name), MAX_PIXELS))
        try:
            plain = {"name": name, "side": side, "parts": None if parts is None else asdict(parts)}
            made = self._pool.run(f"{DECODER}:decode", plain, data, limits=limits, what=name)
        except LimitError as error:
            raise ImageError(error.what) from error
        width, height = made.plain["size"]
        return Image.frombytes("RGB", (width, height), made.data)


def decode_limits(pixels: int) -> Limits:
    """What an image may cost that has so many pixels by its header: several times of what any honest one does."""
    computed = _LEAST_S + _S_PER_MEGAPIXEL * pixels / 1e6
    return Limits(
        seconds=computed + _BUSY_S,
        cpu_seconds=computed,
        memory_bytes=_LEAST_BYTES + _BYTES_PER_PIXEL * pixels,
        answer_bytes=3 * pixels,
    )


def decode(plain: Mapping[str, Any], data: bytearray) -> Made:
    """Called in the child: size as [width, height], and the pixels, three bytes each."""
    parts = None if plain["parts"] is None else ImageParts(**plain["parts"])
    try:
        image = decode_image(bytes(data), plain["name"], side=plain["side"], parts=parts)
    except ImageError as error:
        if isinstance(error.__cause__, MemoryError):
            raise error.__cause__ from error
        raise
    return Made({"size": image.size}, _rows(image))


def _rows(image: Image.Image) -> Iterator[bytes]:
    """The pixels from top to bottom, some rows at a time: that stays in the processor's cache."""
    together = max(1, _TOGETHER // (3 * image.width))
    for top in range(0, image.height, together):
        yield image.crop((0, top, image.width, min(top + together, image.height))).tobytes()


def _pixels(data: bytes, name: str) -> int:
    """Of an image, by its header."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.width * image.height
    except Exception as error:  # as in `decode_image`
        raise ImageError(f"{name} cannot be decoded: {error}") from error
