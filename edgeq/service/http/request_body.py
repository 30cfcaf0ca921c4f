"""Bodies of requests: read piece by piece, and never more of them in memory at once than was agreed on.

What counts is what has come, not what was announced. The first 64 KiB of each body have a place in any case, so that
small requests get through while large ones wait or are refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

import anyio
from anyio import CapacityLimiter, to_thread
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from edgeq.service.http.errors import RequestError
from edgeq.service.http.in_flight import InFlight
from edgeq.service.http.json_bounds import JsonBounds

__all__ = ["RequestBodies", "body_limit"]

_Parsed = TypeVar("_Parsed", bound=BaseModel)

_JSON: Final = "application/json"
_WORDS_BYTES: Final = 1 << 20
_BODIES: Final = 4
_DIGITS: Final = 19
_AT_ONCE: Final = 2
_SHOWN: Final = 3
_MOST_FAULTS: Final = 100
_LONGEST_NAME: Final = 200

_SMALL: Final = 64 << 10
"""Bytes that are parsed faster than a thread is woken for it, and for which there is always room."""

_GRACE_S: Final = 5.0
_LEAST_RATE: Final = 16 << 10
"""Bytes a second of a body that has announced more than _SMALL, or has come to more; asked for after _GRACE_S."""

_ROOM: Final = "edgeq.room"


def body_limit(images_bytes: int) -> int:
    """The longest body, for so many bytes of images: these in base64, and 1 MiB of words."""
    return images_bytes // 3 * 4 + _WORDS_BYTES


@dataclass
class _Room:
    """Bytes of one body beyond the first that always have a place."""

    taken: int = 0


class RequestBodies:
    """Reads bodies.

    Args:
        most_bytes: of one body.
        seconds: in which it must have come.
        together: bytes of all bodies that are being read and looked at, their first 64 KiB apart; by default those of
            four.
        traffic: is told of bodies that come.
        clock: seconds that do not go back.
    """

    def __init__(
        self,
        most_bytes: int,
        seconds: float,
        together: int | None = None,
        *,
        traffic: InFlight | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most_bytes
        self._seconds = seconds
        self._free = _BODIES * most_bytes if together is None else together
        self._turns = CapacityLimiter(_AT_ONCE)
        self._traffic = traffic or InFlight()
        self._clock = clock

    @contextmanager
    def room(self, request: Request) -> Iterator[None]:
        """Keep the room that a request's body comes to take until it is read and its images are decoded.

        Raises:
            RequestError: 413 the body says that it is too long.
        """
        if _announced(request) > self._most:
            raise self._too_large()
        room = request.scope[_ROOM] = _Room()
        try:
            yield
        finally:
            self._free += room.taken

    async def parse(self, request: Request, kind: type[_Parsed]) -> _Parsed:
        """A request's body as one of the models.

        Raises:
            RequestError: 400 it is not JSON or of another form, 408 it came too slowly, 413 it is too long or has too
                much in it, 415 it says that it is something else, 429 others have the room.
        """
        said = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if said != _JSON:
            raise RequestError(415, "media_type", f"a body of {said[:60]!r}; {_JSON} is read", close=True)
        body = await self._come(request)
        if len(body) <= _SMALL:
            return _validated(body, kind)
        return await to_thread.run_sync(_validated, body, kind, limiter=self._turns)

    async def _come(self, request: Request) -> bytes:
        """The whole body, in its time."""
        with anyio.CancelScope(deadline=anyio.current_time() + self._seconds) as scope:
            with self._traffic.coming_in(scope) as number:
                return await self._read(request, number)
        if anyio.current_time() < scope.deadline:
            raise self._too_slow("others came, and this body had brought nothing for longest")
        raise self._too_slow(f"the body did not come within {self._seconds:g} s")

    async def _read(self, request: Request, number: int) -> bytes:
        body, start = bytearray(), self._clock()
        room: _Room = request.scope[_ROOM]
        large = _announced(request) > _SMALL
        bounds = JsonBounds()
        stream = aiter(request.stream())
        while True:
            # What is asked of a large body: so many bytes until now. It is looked at when the time for more is over.
            patience = start + _GRACE_S + (len(body) + 1) / _LEAST_RATE - self._clock() if large else None
            with anyio.move_on_after(patience) as waiting:
                piece = await anext(stream, None)
            if waiting.cancelled_caught:
                raise self._too_slow(f"the body comes with less than {_LEAST_RATE:,} bytes a second")
            if piece is None:
                return bytes(body)
            self._traffic.came(number)
            body += piece
            if len(body) > self._most:
                raise self._too_large()
            bounds.feed(piece)
            large = large or len(body) > _SMALL
            self._take(room, len(body) - _SMALL - room.taken)

    def _take(self, room: _Room, more: int) -> None:
        """Count bytes that have come; RequestError 429 where others have the room."""
        if more <= 0:
            return
        if more > self._free:
            told = "too many large requests come in at once"
            raise RequestError(429, "too_many_bodies", told, retry_after=1, close=True)
        self._free -= more
        room.taken += more

    def _too_large(self) -> RequestError:
        return RequestError(413, "body_too_large", f"the body has more than {self._most:,} bytes", close=True)

    @staticmethod
    def _too_slow(told: str) -> RequestError:
        return RequestError(408, "body_too_slow", told, close=True)


def _announced(request: Request) -> int:
    """What a body says of its own length; 0 where it says nothing."""
    said = request.headers.get("content-length", "")
    return int(said) if said.isdecimal() and len(said) < _DIGITS else 0


def _validated(body: bytes, kind: type[_Parsed]) -> _Parsed:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        fault = _bad_request(error)
    raise fault  # out here, as the other one holds on to all of the input


def _bad_request(error: ValidationError) -> RequestError:
    """The first faults that pydantic has found; where there are many, their number, as a list of all would be made."""
    count = error.error_count()
    if count > _MOST_FAULTS:
        return RequestError(400, "bad_request", f"the body has {count:,} faults: it is of another form altogether")
    found = error.errors(include_url=False, include_context=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        return RequestError(400, "not_json", f"the body is not JSON: {found[0]['msg']}"[:300])
    places = [".".join(str(part) for part in one["loc"])[:_LONGEST_NAME] for one in found[:_SHOWN]]
    told = "; ".join(f"{place or 'the body'}: {one['msg'][:300]}" for place, one in zip(places, found, strict=False))
    return RequestError(400, "bad_request", told[:1000], param=places[0] or None)
