"""The images of a request: what may be looked at is settled before anything is decoded.

Lengths first, then the kind of each file and the number of pixels from its header, and only then the pixels. A fault
names the image by its place in the request.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

import anyio
from anyio import CapacityLimiter, to_thread
from PIL import Image, UnidentifiedImageError

from edgeq.errors import ImageError
from edgeq.model.images.decode import decode_image
from edgeq.runtime.vlm.api import EncodedImage
from edgeq.service.http.errors import RequestError
from edgeq.service.routes.fetch import Fetcher

__all__ = ["FORMATS", "ImageInputs", "ImageLimits", "ImageSource", "data_uri_bytes"]

FORMATS: Final = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP", "image/bmp": "BMP"}
"""Media types of a data URI, and Pillow's name of each. What the bytes are is looked at all the same."""

_OTHER_NAMES: Final = ("image/jpg", "image/pjpeg", "image/x-png", "image/x-ms-bmp")
"""By which browsers and cameras call the same."""

_Made = TypeVar("_Made")

_NAME: Final = "the image"
_DATA: Final = re.compile(r"data:([^;,]{0,100})((?:;[^;,]{0,100}){0,4}),", re.IGNORECASE)
_REMOTE: Final = ("http://", "https://")
_SMALL: Final = 64 << 10
"""Characters of data URIs that are read faster than a thread is woken for them."""

_AT_ONCE: Final = 2
"""Requests whose images are decoded at once, one after another: each may take three bytes for each of its pixels."""


@dataclass(frozen=True)
class ImageLimits:
    """How large images may be.

    Attributes:
        encoded_bytes: of one.
        pixels: of one.
        all_bytes: encoded, of all images of a request together.
        all_pixels: of all images of a request together.
    """

    encoded_bytes: int
    pixels: int
    all_bytes: int
    all_pixels: int


@dataclass(frozen=True)
class ImageSource:
    """An image as a request has it.

    Attributes:
        url: a data URI, or an address.
        place: in the request, such as `messages.0.content.1`.
    """

    url: str = field(repr=False)
    place: str


class ImageInputs:
    """Opens the images of requests.

    Args:
        limits: of the images of a request.
        fetcher: gets those that are given by their address.
    """

    def __init__(self, limits: ImageLimits, fetcher: Fetcher) -> None:
        self._limits = limits
        self._fetcher = fetcher
        self._turns = CapacityLimiter(_AT_ONCE)

    async def use(self, sources: Sequence[ImageSource], then: Callable[[tuple[EncodedImage, ...]], _Made]) -> _Made:
        """Take the files of a request's images, hand them on, and let them go.

        Args:
            sources: the images.
            then: called in a worker thread with the files, which it decodes to mode RGB, upright, where it needs that;
                its result is returned.

        Raises:
            RequestError: 400 an image is neither a data URI nor an address, 413 one is too large, or all together are,
                415 no kind of image that is read, 422 it cannot be decoded or fetched; or whatever `then` raises.
        """
        files = await self._files(sources)
        return await to_thread.run_sync(self._open, sources, files, then, limiter=self._turns)

    def small(self, sources: Sequence[ImageSource]) -> tuple[EncodedImage, ...] | None:
        """The files of a request's images, read at once; None where they are not small, or not in the request.

        Raises:
            RequestError: as `use`.
        """
        urls = [source.url for source in sources]
        if any(map(_is_remote, urls)) or sum(map(len, urls)) > _SMALL:
            return None
        return self._read(sources, urls)

    async def _files(self, sources: Sequence[ImageSource]) -> list[str | bytes]:
        """Data URIs as they are, and what is behind addresses: one after another, in the time that one may take."""
        end = anyio.current_time() + self._fetcher.seconds
        found: list[str | bytes] = []
        fetched = 0
        for source in sources:
            if not _is_remote(source.url):
                found.append(source.url)
                continue
            with _naming(source):
                data = await self._fetcher.fetch(source.url, max(end - anyio.current_time(), 0))
                fetched += len(data)
                _check_all(fetched, self._limits.all_bytes, "bytes")
            found.append(data)
        return found

    def _open(
        self,
        sources: Sequence[ImageSource],
        files: Sequence[str | bytes],
        then: Callable[[tuple[EncodedImage, ...]], _Made],
    ) -> _Made:
        return then(self._read(sources, files))

    def _read(self, sources: Sequence[ImageSource], files: Sequence[str | bytes]) -> tuple[EncodedImage, ...]:
        """Files that are within the limits, not yet decoded."""
        limits, images = self._limits, []
        encoded = pixels = 0
        for source, file in zip(sources, files, strict=True):
            with _naming(source):
                data = data_uri_bytes(file, limits.encoded_bytes) if isinstance(file, str) else file
                encoded += len(data)
                _check_all(encoded, limits.all_bytes, "bytes")
                pixels += _pixels_of(data, limits.pixels)
                _check_all(pixels, limits.all_pixels, "pixels")
            images.append(EncodedImage(data, partial(_decode, source.place)))
        return tuple(images)


def _is_remote(url: str) -> bool:
    return url[:8].lower().startswith(_REMOTE)


@contextmanager
def _naming(source: ImageSource) -> Iterator[None]:
    """Say of a fault which image is at fault."""
    try:
        yield
    except RequestError as error:
        error.at(source.place)
        raise


def _decode(place: str, data: bytes) -> Image.Image:
    try:
        return decode_image(data, _NAME)
    except ImageError as error:
        raise RequestError(422, "image_unreadable", error.what, param=place) from error


def _check_all(count: int, most: int, what: str) -> None:
    """Raise RequestError 413 where the images of a request have too many bytes or pixels, this one the last of them."""
    if count > most:
        raise RequestError(
            413, "images_too_large", f"the request's images have {count:,} {what} or more, at most {most:,} are taken"
        )


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
        raise RequestError(400, "bad_image_url", "the image is no data URI and no address of a host")
    if found[2].lower().split(";")[-1] != "base64":
        raise RequestError(400, "bad_image_url", "the image's data URI is not in base64")
    if found[1].lower() not in (*FORMATS, *_OTHER_NAMES):
        raise RequestError(415, "image_type", f"a data URI of {found[1][:40]!r}; {_readable()}")
    length = len(url) - found.end()
    if length // 4 * 3 > most + 2:
        raise too_many_bytes(length // 4 * 3, most)
    try:
        data = base64.b64decode(url[found.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(400, "bad_base64", f"the image's base64 is damaged: {error}") from error
    if len(data) > most:
        raise too_many_bytes(len(data), most)
    return data


def too_many_bytes(count: int, most: int) -> RequestError:
    """The fault for an encoded image that is too long."""
    return RequestError(413, "image_too_large", f"the image has about {count:,} bytes, at most {most:,} are taken")


def _pixels_of(data: bytes, most: int) -> int:
    """How many an image has, by its header alone; raises RequestError where they are too many, or it is no image."""
    try:
        with Image.open(io.BytesIO(data), formats=tuple(FORMATS.values())) as image:
            width, height = image.size
    except UnidentifiedImageError as error:
        raise RequestError(415, "image_type", f"the image is no file of a known kind; {_readable()}") from error
    except Image.DecompressionBombError as error:
        raise RequestError(413, "image_too_large", f"the image is too large: {error}") from error
    except Exception as error:  # a header made by somebody hostile raises nearly anything
        raise RequestError(422, "image_unreadable", f"the image cannot be decoded: {error}") from error
    if width * height > most:
        raise RequestError(
            413, "image_too_large", f"the image has {width} x {height} pixels, at most {most:,} are taken"
        )
    return width * height


def _readable() -> str:
    return f"{', '.join(FORMATS)} are read"
