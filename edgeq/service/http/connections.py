"""How many connections there may be, in all and from one address: a descriptor each, of which a process has few.

Where there is no room, the connection that has been idle for longest gives way: one without a request, or whose header
is not whole yet. A client that asks is so always let in, however many connections somebody else opens and leaves.
"""

from __future__ import annotations

import resource
from collections import Counter, OrderedDict
from collections.abc import Collection
from typing import Final, Protocol

from edgeq.service.http.access import is_loopback
from edgeq.service.http.errors import RequestError

__all__ = ["Connection", "Connections", "descriptor_room"]

_BESIDE: Final = 192
"""Descriptors that are left to everything else: files of the bundle, logs, child processes, images that are fetched."""

_FEWEST: Final = 16


def descriptor_room(wanted: int, soft_limit: int | None = None) -> int:
    """So many connections as are wanted, or as the limit of descriptors leaves room for.

    Args:
        wanted: connections.
        soft_limit: of descriptors; None asks for this process's own.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if soft_limit is None else soft_limit
    if limit == resource.RLIM_INFINITY:
        return wanted
    # As many again may be accepted in one turn of the loop, before the first of them is looked at.
    return max(min(wanted, (limit - _BESIDE) * 3 // 4), _FEWEST)


class Connection(Protocol):
    """One of them."""

    def give_way(self) -> None:
        """End it at once: it is idle, and another needs its place."""
        ...


class Connections:
    """Counts, for one event loop.

    Args:
        most: in all.
        for_each: from one address; those of this machine, and of proxies, are not counted so.
        proxies: addresses behind which there are many clients.
    """

    def __init__(self, most: int, for_each: int, proxies: Collection[str] = ()) -> None:
        self._most = most
        self._for_each = for_each
        self._proxies = frozenset(proxies)
        self._addresses: dict[Connection, str] = {}
        self._counts: Counter[str] = Counter()
        self._idle: OrderedDict[Connection, None] = OrderedDict()

    def __len__(self) -> int:
        """How many there are."""
        return len(self._addresses)

    def come(self, connection: Connection, address: str) -> None:
        """A new one, idle.

        Args:
            connection: it.
            address: of the client; empty where there is none, as on a Unix socket.

        Raises:
            RequestError: 429 its address has as many as one may have, 503 there are too many, and none is idle.
        """
        counted = "" if self._is_shared(address) else address
        if counted and self._counts[counted] >= self._for_each and not self._make_room(counted):
            told = f"there are {self._for_each} connections from this address already"
            raise RequestError(429, "too_many_connections", told, retry_after=1, close=True)
        if len(self._addresses) >= self._most and not self._make_room():
            raise RequestError(503, "too_many_connections", "too many connections are open", retry_after=1, close=True)
        self._addresses[connection] = counted
        self._counts[counted] += 1
        self._idle[connection] = None

    def busy(self, connection: Connection) -> None:
        """A request has come on it."""
        self._idle.pop(connection, None)

    def idle(self, connection: Connection) -> None:
        """All that came on it was answered."""
        if connection in self._addresses:
            self._idle[connection] = None

    def gone(self, connection: Connection) -> None:
        """It has ended; may be told more than once."""
        address = self._addresses.pop(connection, None)
        self._idle.pop(connection, None)
        if address is not None:
            self._counts[address] -= 1
            self._counts += Counter()  # leaves out what is down to nothing

    def _is_shared(self, address: str) -> bool:
        return not address or is_loopback(address) or address in self._proxies

    def _make_room(self, address: str | None = None) -> bool:
        """End the one that has been idle for longest, of an address where one is named; whether there was one."""
        idle = (one for one in self._idle if address is None or self._addresses[one] == address)
        oldest = next(idle, None)
        if oldest is None:
            return False
        self.gone(oldest)
        oldest.give_way()
        return True
