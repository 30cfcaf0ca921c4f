"""Requests that are under way, and whether new ones are taken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from edgeq.service.http.errors import RequestError

__all__ = ["AT_ONCE", "InFlight"]

AT_ONCE = 256
"""Requests under way, those that wait and are read included; each holds a connection."""

_COME_BACK_S = 5


class InFlight:
    """Counts, for one event loop.

    Attributes:
        active: requests under way.
        draining: no new ones are taken.

    Args:
        most: requests under way.
    """

    def __init__(self, most: int = AT_ONCE) -> None:
        self.active = 0
        self.draining = False
        self._most = most
        self._idle = anyio.Event()

    @contextmanager
    def one(self) -> Iterator[None]:
        """A request, from its header to the end of its answer.

        Raises:
            RequestError: 429 too many are under way, 503 no new ones are taken.
        """
        if self.draining:
            raise RequestError(503, "draining", "the service is stopping", retry_after=_COME_BACK_S, close=True)
        if self.active >= self._most:
            raise RequestError(429, "too_many_requests", "too many requests are under way", retry_after=1, close=True)
        self.active += 1
        try:
            yield
        finally:
            self.active -= 1
            if self.draining and not self.active:
                self._idle.set()

    async def drain(self, seconds: float) -> bool:
        """Take no new requests, and wait for those under way; whether all have ended within `seconds`."""
        self.draining = True
        if self.active:
            with anyio.move_on_after(seconds):
                await self._idle.wait()
        return not self.active
