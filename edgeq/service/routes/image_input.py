"""The image of a request: what may be looked at is settled before anything is decoded.

Length first, then the kind of file and the number of pixels from its header, and only then the pixels.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from anyio import CapacityLimiter, to_thread
from PIL import Image, UnidentifiedImageError

from edgeq.errors import ImageError
from edgeq.model.images.decode import decode_image
from edgeq.runtime.vlm.api import EncodedImage
from edgeq.service.http.errors import RequestError
from edgeq.service.routes.fetch import Fetcher

__all__ = ["FORMATS", "ImageInputs", "ImageLimits", "data_uri_bytes"]

FORMATS: Final = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP", "image/bmp": "BMP"}
"""Media types of a data URI, and Pillow's name of each. What the bytes are is looked at all the same."""

_Made = TypeVar("_Made")

_NAME: Final = "the image"
_DATA: Final = re.compile(r"data:([^;,]{0,100})((?:;[^;,]{0,100}){0,4}),", re.IGNORECASE)
_REMOTE: Final = ("http://", "https://")
_AT_ONCE: Final = 2
"""Images decoded at once: each may take three bytes for each of its pixels."""


@dataclass(frozen=True)
class ImageLimits:
    """The largest image: bytes encoded, and pixels."""

    encoded_bytes: int
    pixels: int


class ImageInputs:
    """Opens the images of requests.

    Args:
        limits: of one image.
        fetcher: gets those that are given by their address.
    """

    def __init__(self, limits: ImageLimits, fetcher: Fetcher) -> None:
        self._limits = limits
        self._fetcher = fetcher
        self._turns = CapacityLimiter(_AT_ONCE)

    async def use(self, url: str, then: Callable[[EncodedImage], _Made]) -> _Made:
        """Take an image's file, hand it on, and let it go.

        Args:
            url: a data URI, or an address.
            then: called in a worker thread with the file, which it decodes to mode RGB, upright, where it needs that;
                its result is returned.

        Raises:
            RequestError: 400 it is neither, 413 too large, 415 no kind of image that is read, 422 it cannot be
                decoded or fetched; or whatever `then` raises.
        """
        remote = url[:8].lower().startswith(_REMOTE)
        data = await self._fetcher.fetch(url) if remote else url
        return await to_thread.run_sync(self._open, data, then, limiter=self._turns)

    def _open(self, data: str | bytes, then: Callable[[EncodedImage], _Made]) -> _Made:
        encoded = data_uri_bytes(data, self._limits.encoded_bytes) if isinstance(data, str) else data
        return then(EncodedImage(encoded, self._decode))

    def _decode(self, data: bytes) -> Image.Image:
        _check_header(data, self._limits.pixels)
        try:
            return decode_image(data, _NAME)
        except ImageError as error:
            raise RequestError(422, "image_unreadable", error.what, param="image_url") from error


def data_uri_bytes(url: str, most: int) -> bytes:
    """What a data URI with base64 holds (RFC 2397).

    Args:
        url: the whole of it.
        most: bytes that it may hold.

    Raises:
        RequestError: 400 it is no such URI or not base64, 413 it holds more, 415 it says that it is something else.
    """
    found = _DATA.match(url)
    if found is None:
        raise RequestError(400, "bad_image_url", "the image is no data URI and no address of a host", param="image_url")
    if found[2].lower().split(";")[-1] != "base64":
        raise RequestError(400, "bad_image_url", "the image's data URI is not in base64", param="image_url")
    if found[1].lower() not in FORMATS:
        raise RequestError(415, "image_type", f"a data URI of {found[1][:40]!r}; {_readable()}", param="image_url")
    length = len(url) - found.end()
    if length // 4 * 3 > most + 2:
        raise too_many_bytes(length // 4 * 3, most)
    try:
        data = base64.b64decode(url[found.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(400, "bad_base64", f"the image's base64 is damaged: {error}", param="image_url") from error
    if len(data) > most:
        raise too_many_bytes(len(data), most)
    return data


def too_many_bytes(count: int, most: int) -> RequestError:
    """The fault for an encoded image that is too long."""
    return RequestError(
        413, "image_too_large", f"the image has about {count:,} bytes, at most {most:,} are taken", param="image_url"
    )


def _check_header(data: bytes, most: int) -> None:
    """Kind and size by the header alone."""
    try:
        with Image.open(io.BytesIO(data), formats=tuple(FORMATS.values())) as image:
            width, height = image.size
    except UnidentifiedImageError as error:
        raise RequestError(
            415, "image_type", f"the image is no file of a known kind; {_readable()}", param="image_url"
        ) from error
    except Image.DecompressionBombError as error:
        raise RequestError(413, "image_too_large", f"the image is too large: {error}", param="image_url") from error
    except Exception as error:  # a header made by somebody hostile raises nearly anything
        raise RequestError(
            422, "image_unreadable", f"the image cannot be decoded: {error}", param="image_url"
        ) from error
    if width * height > most:
        raise RequestError(
            413,
            "image_too_large",
            f"the image has {width} x {height} pixels, at most {most:,} are taken",
            param="image_url",
        )


def _readable() -> str:
    return f"{', '.join(FORMATS)} are read"
