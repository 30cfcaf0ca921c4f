"""Get an image from another host: only from hosts that were named, and never from inside the network.

A host's name is resolved once, every address of it must be a public one, and the connection goes to an address that was
checked: so a name that changes what it means between two questions gains nothing. Redirects are followed on the same
host only.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urljoin, urlsplit

import anyio
import h11

from edgeq.service.http.errors import RequestError

__all__ = ["Fetcher", "Resolve", "is_public", "resolve"]

_PIECE: Final = 1 << 16
_REDIRECTS: Final = 3
_PORTS: Final = {"http": 80, "https": 443}
_MOVED: Final = (301, 302, 303, 307, 308)

Resolve = Callable[[str, int], Awaitable[tuple[str, ...]]]
"""A host's name and a port -> its addresses."""


async def resolve(host: str, port: int) -> tuple[str, ...]:
    """What the system knows of a host; raises OSError where that is nothing."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(str(address[0]) for *_, address in found)


def is_public(address: str) -> bool:
    """Whether an address is one of the public network: not of this machine, a private network, or a special use."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    found = mapped or found
    return found.is_global and not found.is_multicast


@dataclass(frozen=True)
class _Answer:
    status: int
    location: str
    body: bytes


class Fetcher:
    """Fetches images.

    Args:
        hosts: names from which it may.
        most_bytes: the longest body.
        seconds: for all of it, redirects included.
        resolve: finds a host's addresses.
        allowed: which of them may be connected to.

    Attributes:
        seconds: the same.
    """

    def __init__(
        self,
        hosts: Collection[str],
        most_bytes: int,
        seconds: float,
        *,
        resolve: Resolve = resolve,
        allowed: Callable[[str], bool] = is_public,
    ) -> None:
        self._hosts = frozenset(hosts)
        self._most = most_bytes
        self.seconds = seconds
        self._resolve = resolve
        self._allowed = allowed

    async def fetch(self, url: str, seconds: float | None = None) -> bytes:
        """The body behind an address.

        Args:
            url: the address.
            seconds: that it may take; None for as many as the fetcher gives.

        Raises:
            RequestError: 400 the host was not named, 413 the body is too long, 422 it cannot be had.
        """
        first = self._target(url)
        seconds = self.seconds if seconds is None else seconds
        try:
            with anyio.fail_after(seconds):
                return await self._follow(first)
        except TimeoutError as error:
            raise _failed(f"{first.hostname} did not send the image within {seconds:.3g} s") from error
        except (OSError, ssl.SSLError, h11.RemoteProtocolError) as error:
            raise _failed(f"the image cannot be had from {first.hostname}: {type(error).__name__}") from error

    def _target(self, url: str) -> SplitResult:
        """An address on a host that was named."""
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname or "", parts.port
        except ValueError as error:
            raise RequestError(400, "bad_image_url", "the image's address is none") from error
        if host not in self._hosts or parts.scheme not in _PORTS:
            raise RequestError(
                400,
                "image_host_not_allowed",
                "images are not fetched from this host: put the image into the request as a data URI",
            )
        if parts.username is not None or parts.password is not None or not url.isascii() or not url.isprintable():
            raise RequestError(400, "bad_image_url", "the image's address has characters that it must not")
        return parts

    async def _follow(self, target: SplitResult) -> bytes:
        for _ in range(_REDIRECTS + 1):
            answer = await self._get(target)
            if answer.status == 200:
                return answer.body
            if answer.status not in _MOVED or not answer.location:
                raise _failed(f"{target.hostname} answered with status {answer.status}")
            there = urlsplit(urljoin(target.geturl(), answer.location))
            if there.hostname != target.hostname:
                raise _failed(f"{target.hostname} sends on to another host")
            target = self._target(there.geturl())
        raise _failed(f"{target.hostname} sends on for ever")

    async def _get(self, target: SplitResult) -> _Answer:
        host, port = target.hostname or "", target.port or _PORTS[target.scheme]
        addresses = await self._resolve(host, port)
        if not addresses or not all(self._allowed(address) for address in addresses):
            raise _failed(f"{host} is no public host")
        secure = ssl.create_default_context() if target.scheme == "https" else None
        reader, writer = await asyncio.open_connection(
            addresses[0], port, ssl=secure, server_hostname=host if secure else None
        )
        try:
            return await self._exchange(reader, writer, target)
        finally:
            writer.close()
            with suppress(OSError, ssl.SSLError):
                writer.transport.abort()

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: SplitResult
    ) -> _Answer:
        """One request, and the whole answer to it."""
        http = h11.Connection(h11.CLIENT)
        path = (target.path or "/") + (f"?{target.query}" if target.query else "")
        headers = [("Host", target.netloc), ("Accept", "image/*"), ("Accept-Encoding", "identity")]
        request = h11.Request(method="GET", target=path, headers=[*headers, ("Connection", "close")])
        writer.write((http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b""))
        await writer.drain()
        status, location, body = 0, "", bytearray()
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await reader.read(_PIECE))
            elif isinstance(event, h11.Response):
                status = event.status_code
                location = dict(event.headers).get(b"location", b"").decode("latin-1")
                if status != 200:
                    return _Answer(status, location, b"")
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > self._most:
                    raise RequestError(413, "image_too_large", f"the image has more than {self._most:,} bytes")
            elif isinstance(event, h11.EndOfMessage):
                return _Answer(status, location, bytes(body))
            elif isinstance(event, h11.ConnectionClosed):
                raise _failed(f"{target.hostname} closed the connection")


def _failed(reason: str) -> RequestError:
    return RequestError(422, "image_not_fetched", reason)
