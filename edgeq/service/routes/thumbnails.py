"""`/v1/search/images/{row}`: a thumbnail of a row of the catalog, made from the source that was indexed."""

from __future__ import annotations

import io
from functools import partial
from typing import Final

from anyio import CapacityLimiter, to_thread
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response

from edgeq.catalog.row_images import RowImage
from edgeq.errors import ImageError, InputError
from edgeq.model.images.decode import Decode, decode_image
from edgeq.runtime.scheduler.errors import BusyError
from edgeq.service.http.connection import within
from edgeq.service.http.errors import RequestError
from edgeq.service.served_retrieval import ServedCatalog

__all__ = ["SIDE", "Thumbnails"]

SIDE: Final = 320
"""The longer side of a thumbnail, in pixels, at most; a smaller image keeps its size."""

_FORM: Final = 1
"""Part of the ETag: to be raised where the same image is to give another thumbnail."""

_QUALITY: Final = 80
_DIGITS: Final = 18
_KEEP_S: Final = 24 * 3600
_AT_ONCE: Final = 2
"""Images decoded at once: each may take three bytes for each of its pixels."""


class Thumbnails:
    """Shows what was found.

    Args:
        catalog: whose images are shown; None where none is searched.
        queue: requests that may wait.
        seconds: from a request's header to its answer.
        decode: makes an image of a file, its name in errors, and the side that suffices.
    """

    def __init__(
        self, catalog: ServedCatalog | None, *, queue: int, seconds: float, decode: Decode = decode_image
    ) -> None:
        self._catalog = catalog
        self._decode = decode
        self._queue = queue
        self._seconds = seconds
        self._turns = CapacityLimiter(_AT_ONCE)
        self._asked = 0

    async def __call__(self, request: Request) -> Response:
        """Answer with a JPEG, or 304 where the client has it.

        Raises:
            RequestError: 404 no catalog is searched, there is no such row, or its image cannot be read (any more), 408
                it took too long.
            BusyError: too many wait.
            ArtifactError: the catalog is damaged.
        """
        if self._catalog is None:
            raise RequestError(404, "no_index", "no catalog is searched here")
        row = _row(request.path_params["row"])
        if self._asked >= _AT_ONCE + max(self._queue, 1):
            raise BusyError(1)
        known = request.headers.get("if-none-match", "")
        make = partial(to_thread.run_sync, _answer, self._catalog, row, known, self._decode, limiter=self._turns)
        self._asked += 1
        try:
            return await within(request, self._seconds, make)
        finally:
            self._asked -= 1


def thumbnail(data: bytes, name: str, decode: Decode = decode_image) -> bytes:
    """A JPEG of an encoded image, of SIDE pixels at most; nothing of the file but its pixels is in it.

    Args:
        data: of the file.
        name: of the file, for errors.
        decode: decodes it, to twice that side or more.

    Raises:
        ImageError: it cannot be decoded, or has too many pixels.
    """
    image = decode(data, name, side=2 * SIDE)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    image.info.clear()  # a comment would be written again
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def _answer(catalog: ServedCatalog, row: int, known: str, decode: Decode) -> Response:
    try:
        found = catalog.image(row)
        tag = _tag(found)
        if tag in (each.strip().removeprefix("W/") for each in known.split(",")):
            return Response(status_code=304, headers=_headers(tag))
        return Response(
            thumbnail(found.read(), found.item.path, decode), headers=_headers(tag), media_type="image/jpeg"
        )
    except (ImageError, InputError) as error:  # where the images lie is not told, as it is in no answer but a search's
        told = f"row {row} has no image here: there is no such row, or the image was removed, changed or cannot be read"
        raise RequestError(404, "no_image", told) from error


def _row(given: str) -> int:
    """The number of a row; raises RequestError where it is none."""
    if not (given.isascii() and given.isdecimal() and len(given) <= _DIGITS):
        raise RequestError(404, "no_image", "a row is a number, as in the answer of /v1/search")
    return int(given)


def _tag(image: RowImage) -> str:
    """Another one for another image, and for one that was changed."""
    return f'"{image.item.identity.hex()}-{SIDE}.{_FORM}"'


def _headers(tag: str) -> dict[str, str]:
    return {
        "ETag": tag,
        "Cache-Control": f"private, max-age={_KEEP_S}",
        "Vary": "Authorization",
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "same-origin",  # without a token, no other site's page shows it
    }
