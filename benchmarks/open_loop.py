"""Requests over HTTP at a rate, whatever becomes of those before: an open loop with a client that costs little.

The client shares its processors with the server, so that what it takes is missing there. It writes requests and reads
answers itself, over connections that are kept and used again: about a tenth of what a general client takes.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np

__all__ = ["Burst", "offer"]

_GOOD: Final = 0.99
"""Share of requests that must be answered for a rate to be sustained."""

_PATIENCE_S: Final = 0.5
"""The 99th percentile must be below."""

_MOST_CONNECTIONS: Final = 1000
_ANSWER_S: Final = 10.0


@dataclass(frozen=True)
class Burst:
    """What became of requests that were offered at one rate.

    Attributes:
        who: in words.
        rate: requests a second that were offered.
        answered: share that got an answer.
        p50, p99: seconds from the moment a request was due to its answer; of those answered.
        client: seconds of the processor that the client took for a request.
        server: the same of the server; 0 where its process is not known.
    """

    who: str
    rate: float
    answered: float
    p50: float
    p99: float
    client: float = 0.0
    server: float = 0.0

    @property
    def good(self) -> bool:
        """Whether the rate is sustained."""
        return self.answered >= _GOOD and self.p99 < _PATIENCE_S


async def offer(
    url: str,
    who: str,
    rate: float,
    seconds: float,
    body: Callable[[], Mapping[str, Any]],
    *,
    path: str = "/v1/search",
    spent: Callable[[], float] = lambda: 0.0,
) -> Burst:
    """Send requests when they are due.

    Args:
        url: of the server.
        who: in words.
        rate: requests a second, at random moments (Poisson).
        seconds: so long.
        body: makes the next request's.
        path: of all requests.
        spent: seconds of the processor that the server has had so far.
    """
    place = urlsplit(url)
    assert place.hostname is not None
    assert place.port is not None
    client = _Client(place.hostname, place.port, path)
    rng, failed = random.Random(int(rate)), 0
    times: list[float] = []

    async def ask(data: bytes, due: float) -> None:
        nonlocal failed
        try:
            status = await asyncio.wait_for(client.post(data), _ANSWER_S)
        except (OSError, asyncio.TimeoutError):
            status = 0
        if status == 200:
            times.append(time.perf_counter() - due)
        else:
            failed += 1

    own, theirs = time.process_time(), spent()
    start, due = time.perf_counter(), 0.0
    tasks: list[asyncio.Task[None]] = []
    while due < seconds:
        wait = start + due - time.perf_counter()
        if wait > 0 or len(tasks) % 16 == 0:  # behind time, too, answers must be read
            await asyncio.sleep(max(wait, 0))
        tasks.append(asyncio.create_task(ask(json.dumps(body()).encode(), start + due)))
        due += rng.expovariate(rate)
    await asyncio.gather(*tasks)
    client.close()
    own, theirs = time.process_time() - own, spent() - theirs
    p50, p99 = np.percentile(times, (50, 99)) if times else (float("inf"), float("inf"))
    done = len(tasks)
    return Burst(who, rate, len(times) / done, float(p50), float(p99), own / done, theirs / done)


class _Client:
    """Connections to one path, kept for the next request."""

    def __init__(self, host: str, port: int, path: str) -> None:
        self._host, self._port = host, port
        head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\nContent-Length: "
        self._head = head.encode()
        self._free: list[_Connection] = []
        self._room = asyncio.Semaphore(_MOST_CONNECTIONS)

    async def post(self, data: bytes) -> int:
        """The status of the answer; raises OSError where there is none."""
        async with self._room:
            connection = self._free.pop() if self._free else await self._connect()
            try:
                status = await connection.ask(b"%b%d\r\n\r\n%b" % (self._head, len(data), data))
            except BaseException:
                connection.close()
                raise
            if connection.open:
                self._free.append(connection)
            return status

    def close(self) -> None:
        """Close all connections."""
        for connection in self._free:
            connection.close()

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, self._host, self._port)
        return connection


class _Connection(asyncio.Protocol):
    """One request after another; answers have a Content-Length, as those of both servers do."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._answer: asyncio.Future[int] | None = None
        self._heard = b""
        self.open = True

    async def ask(self, data: bytes) -> int:
        """The status of the answer."""
        if not self.open:
            raise ConnectionResetError
        self._heard = b""
        self._answer = self._loop.create_future()
        self._transport.write(data)
        return await self._answer

    def close(self) -> None:
        """Hang up."""
        self.open = False
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of asyncio."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Of asyncio: the answer, or a part of it."""
        self._heard += data
        head, found, body = self._heard.partition(b"\r\n\r\n")
        if not found:
            return
        lowered = head.lower()
        length = int(lowered.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(body) >= length and self._answer is not None and not self._answer.done():
            if b"connection: close" in lowered:
                self.open = False
            self._answer.set_result(int(head[9:12]))

    def connection_lost(self, _error: Exception | None) -> None:
        """Of asyncio."""
        self.open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError())
