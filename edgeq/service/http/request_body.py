"""Bodies of requests: read piece by piece, and never more of them in memory at once than was agreed on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

import anyio
from anyio import CapacityLimiter, to_thread
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from edgeq.service.http.errors import RequestError

__all__ = ["RequestBodies", "body_limit"]

_Parsed = TypeVar("_Parsed", bound=BaseModel)

_JSON: Final = "application/json"
_WORDS_BYTES: Final = 1 << 20
_BODIES: Final = 4
_DIGITS: Final = 19
_AT_ONCE: Final = 2
_SHOWN: Final = 3
_SMALL: Final = 64 << 10
"""Bytes that are read faster than a thread is woken for it."""


def body_limit(images_bytes: int) -> int:
    """The longest body, for so many bytes of images: these in base64, and 1 MiB of words."""
    return images_bytes // 3 * 4 + _WORDS_BYTES


class RequestBodies:
    """Reads bodies.

    Args:
        most_bytes: of one body.
        seconds: in which it must have come.
        together: bytes of all bodies that are being read and looked at; by default those of four.
    """

    def __init__(self, most_bytes: int, seconds: float, together: int | None = None) -> None:
        self._most = most_bytes
        self._seconds = seconds
        self._free = _BODIES * most_bytes if together is None else together
        self._turns = CapacityLimiter(_AT_ONCE)

    @contextmanager
    def room(self, request: Request) -> Iterator[None]:
        """Keep room for a request's body while it is read and its images decoded.

        Raises:
            RequestError: 413 the body says that it is too long, 429 others have the room.
        """
        length = min(_announced(request) or self._most, self._most)
        if length > self._free:
            raise RequestError(
                429, "too_many_bodies", "too many large requests come in at once", retry_after=1, close=True
            )
        self._free -= length
        try:
            yield
        finally:
            self._free += length

    async def parse(self, request: Request, kind: type[_Parsed]) -> _Parsed:
        """A request's body as one of the models.

        Raises:
            RequestError: 400 it is not JSON or of another form, 408 it came too slowly, 413 it is too long, 415 it says
                that it is something else.
        """
        said = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if said != _JSON:
            raise RequestError(415, "media_type", f"a body of {said[:60]!r}; {_JSON} is read", close=True)
        try:
            with anyio.fail_after(self._seconds):
                body = await self._read(request)
        except TimeoutError as error:
            raise RequestError(
                408, "body_too_slow", f"the body did not come within {self._seconds:g} s", close=True
            ) from error
        if len(body) <= _SMALL:
            return _validated(body, kind)
        return await to_thread.run_sync(_validated, body, kind, limiter=self._turns)

    async def _read(self, request: Request) -> bytes:
        if _announced(request) > self._most:
            raise self._too_large()
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > self._most:
                raise self._too_large()
        return bytes(body)

    def _too_large(self) -> RequestError:
        return RequestError(413, "body_too_large", f"the body has more than {self._most:,} bytes", close=True)


def _announced(request: Request) -> int:
    """What a body says of its own length; 0 where it says nothing."""
    said = request.headers.get("content-length", "")
    return int(said) if said.isdecimal() and len(said) < _DIGITS else 0


def _validated(body: bytes, kind: type[_Parsed]) -> _Parsed:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        if found[0]["type"] == "json_invalid":
            raise RequestError(400, "not_json", f"the body is not JSON: {found[0]['msg']}"[:300]) from error
        places = [".".join(str(part) for part in one["loc"]) for one in found]
        told = "; ".join(
            f"{place or 'the body'}: {one['msg']}" for place, one in zip(places, found[:_SHOWN], strict=False)
        )
        raise RequestError(400, "bad_request", told[:1000], param=places[0] or None) from error
