"""Requests that are under way, and whether new ones are taken."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
from anyio import CancelScope

from edgeq.service.http.errors import RequestError

__all__ = ["AT_ONCE", "InFlight"]

AT_ONCE = 256
"""Requests under way, those that wait and are read included; each holds a connection."""

_COME_BACK_S = 5


class InFlight:
    """Counts, for one event loop.

    Where as many are under way as may be, the one whose body has brought nothing for longest is given up: so no number
    of silent uploads keeps others out.

    Attributes:
        active: requests under way.
        draining: no new ones are taken.

    Args:
        most: requests under way.
        for_each: of these, with one token; None for as many.
    """

    def __init__(self, most: int = AT_ONCE, for_each: int | None = None) -> None:
        self.active = 0
        self.draining = False
        self._most = most
        self._for_each = for_each
        self._holders: Counter[int] = Counter()
        self._coming: OrderedDict[int, CancelScope] = OrderedDict()
        self._given_up: set[int] = set()
        self._numbers = 0
        self._idle = anyio.Event()

    @contextmanager
    def one(self, holder: int | None = None) -> Iterator[None]:
        """A request, from its header to the end of its answer.

        Args:
            holder: of the token that it has brought; None where there is only one, or none.

        Raises:
            RequestError: 429 too many are under way, 503 no new ones are taken.
        """
        if self.draining:
            raise RequestError(503, "draining", "the service is stopping", retry_after=_COME_BACK_S, close=True)
        if holder is not None and self._for_each is not None and self._holders[holder] >= self._for_each:
            told = f"{self._for_each} requests with this token are under way, which is its share"
            raise RequestError(429, "token_quota", told, retry_after=1, close=True)
        if self.active - len(self._given_up) >= self._most and not self._give_up_one():
            raise RequestError(429, "too_many_requests", "too many requests are under way", retry_after=1, close=True)
        self.active += 1
        if holder is not None:
            self._holders[holder] += 1
        try:
            yield
        finally:
            self.active -= 1
            if holder is not None:
                self._holders[holder] -= 1
            if self.draining and not self.active:
                self._idle.set()

    @contextmanager
    def coming_in(self, scope: CancelScope) -> Iterator[int]:
        """While a request's body comes; gives a number for `came`.

        Args:
            scope: is cancelled where the request is given up.
        """
        self._numbers += 1
        number = self._numbers
        self._coming[number] = scope
        try:
            yield number
        finally:
            self._coming.pop(number, None)
            self._given_up.discard(number)

    def came(self, number: int) -> None:
        """A piece of a body has come."""
        if number in self._coming:
            self._coming.move_to_end(number)

    async def drain(self, seconds: float) -> bool:
        """Take no new requests, and wait for those under way; whether all have ended within `seconds`."""
        self.draining = True
        if self.active:
            with anyio.move_on_after(seconds):
                await self._idle.wait()
        return not self.active

    def _give_up_one(self) -> bool:
        """Of the bodies that come, the one that is silent for longest; whether there is one."""
        if not self._coming:
            return False
        number, scope = self._coming.popitem(last=False)
        self._given_up.add(number)
        scope.cancel()
        return True
