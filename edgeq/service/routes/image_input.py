"""The images of a request: what may be looked at is settled before anything is decoded.

Lengths first, then the kind of each file, its parts, its sides and what it takes in memory from its header, and only
then the pixels. A fault names the image by its place in the request.
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
from edgeq.model.images.decode import Decode, decode_image
from edgeq.model.images.header import ImageParts, check_work, decode_bytes, read_parts
from edgeq.runtime.vlm.api import EncodedImage
from edgeq.service.http.errors import RequestError
from edgeq.service.routes.decode_room import DecodeRoom
from edgeq.service.routes.fetch import Fetcher

__all__ = ["DECODED_AT_ONCE", "FORMATS", "ImageInputs", "ImageLimits", "ImageSource", "data_uri_bytes"]

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

DECODED_AT_ONCE: Final = 2
"""Requests whose images are decoded at once, one after another."""

_LONGEST_SIDE: Final = 32_768
_MOST_RATIO: Final = 200
"""Of the longer to the shorter side: preprocessing brings the shorter one to the model's size, and the other grows."""

_PATIENCE_S: Final = 20.0
_RESULT_BYTES: Final = 4
"""For each pixel of an image that was decoded and is still there: Pillow's RGB."""


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
        room: memory to decode them in.
        decode: makes an image of a file and its name in errors; a service does that in children that can be killed.
    """

    def __init__(
        self,
        limits: ImageLimits,
        fetcher: Fetcher,
        room: DecodeRoom,
        decode: Decode = decode_image,
    ) -> None:
        self._limits = limits
        self._decode = decode
        self._fetcher = fetcher
        self._room = room
        self._turns = CapacityLimiter(DECODED_AT_ONCE)

    async def use(self, sources: Sequence[ImageSource], then: Callable[[tuple[EncodedImage, ...]], _Made]) -> _Made:
        """Take the files of a request's images, hand them on, and let them go.

        Args:
            sources: the images.
            then: called in a worker thread with the files, which it decodes to mode RGB, upright, where it needs that;
                its result is returned.

        Raises:
            RequestError: 400 an image is neither a data URI nor an address, 413 one is too large, or all together are,
                415 no kind of image that is read, 422 it cannot be decoded or fetched; or whatever `then` raises.
            BusyError: others have the memory to decode it.
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
        images, _ = self._read(sources, urls)
        return images

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
        images, needed = self._read(sources, files)
        with self._room.take(needed, _PATIENCE_S):
            return then(images)

    def _read(
        self, sources: Sequence[ImageSource], files: Sequence[str | bytes]
    ) -> tuple[tuple[EncodedImage, ...], int]:
        """Files that are within the limits, not yet decoded, and bytes that decoding one after another takes."""
        limits, images = self._limits, []
        encoded = pixels = dearest = 0
        for source, file in zip(sources, files, strict=True):
            with _naming(source):
                data = data_uri_bytes(file, limits.encoded_bytes) if isinstance(file, str) else file
                encoded += len(data)
                _check_all(encoded, limits.all_bytes, "bytes")
                count, needed, parts = _cost_of(data, limits.pixels)
                pixels += count
                dearest = max(dearest, needed)
                _check_all(pixels, limits.all_pixels, "pixels")
            images.append(EncodedImage(data, partial(self._decoded, source.place, parts)))
        return tuple(images), dearest + (_RESULT_BYTES * pixels if len(images) > 1 else 0)

    def _decoded(self, place: str, parts: ImageParts, data: bytes) -> Image.Image:
        try:
            return self._decode(data, _NAME, parts=parts)
        except ImageError as error:
            raise RequestError(422, "image_unreadable", error.what, param=place) from error


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


def _cost_of(data: bytes, most: int) -> tuple[int, int, ImageParts]:
    """Its pixels, bytes to decode it, and its parts; RequestError where it is too large, or no image."""
    try:
        parts = read_parts(data, _NAME)
        with Image.open(io.BytesIO(data), formats=tuple(FORMATS.values())) as image:
            size, needed = image.size, decode_bytes(image)
        _check_size(*size, most)
        check_work(size, parts, _NAME)
    except RequestError:
        raise
    except ImageError as error:
        raise RequestError(413, "image_too_large", f"{error.what}; expected: {error.expected}") from error
    except UnidentifiedImageError as error:
        raise RequestError(415, "image_type", f"the image is no file of a known kind; {_readable()}") from error
    except Image.DecompressionBombError as error:
        raise RequestError(413, "image_too_large", f"the image is too large: {error}") from error
    except Exception as error:  # a header made by somebody hostile raises nearly anything
        raise RequestError(422, "image_unreadable", f"the image cannot be decoded: {error}") from error
    return size[0] * size[1], needed, parts


def _check_size(width: int, height: int, most: int) -> None:
    """Raise RequestError where an image has too many pixels, a side that is too long, or is a thin strip."""
    longer, shorter = max(width, height), max(min(width, height), 1)
    told = f"the image has {width} x {height} pixels"
    if width * height > most:
        raise RequestError(413, "image_too_large", f"{told}, at most {most:,} are taken")
    if longer > _LONGEST_SIDE:
        raise RequestError(413, "image_too_large", f"{told}, at most {_LONGEST_SIDE:,} are taken on a side")
    if longer > _MOST_RATIO * shorter:
        raise RequestError(413, "image_too_large", f"{told}: one side is more than {_MOST_RATIO} times the other")


def _readable() -> str:
    return f"{', '.join(FORMATS)} are read"
