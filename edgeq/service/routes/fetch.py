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
_INSIDE: Final = tuple(
    map(
        ipaddress.IPv6Network,
        (
            *("::/96", "::ffff:0:0:0/96", "64:ff9b::/32"),  # RFC 4291 2.5.5.1, RFC 7915, RFC 6052 and 8215
            *("2001::/32", "2002::/16", "fec0::/10"),  # Teredo, RFC 4380; 6to4, RFC 3056; site-local, RFC 3879
        ),
    )
)
"""IPv6 addresses with one of IPv4 in them, which a router on the way turns into that; and those of a site."""

_ISATAP: Final = (0x00005EFE, 0x02005EFE)  # RFC 5214, in front of an address of IPv4
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
    if isinstance(found, ipaddress.IPv6Address):
        if any(found in network for network in _INSIDE) or int(found) >> 32 & 0xFFFF_FFFF in _ISATAP:
            return False
        found = found.ipv4_mapped or found
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
        ports: that may be connected to; None for those of HTTP and HTTPS where addresses must be public, for any where
            `allowed` is another.

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
        ports: Collection[int] | None = None,
    ) -> None:
        self._hosts = frozenset(hosts)
        self._most = most_bytes
        self.seconds = seconds
        self._resolve = resolve
        self._allowed = allowed
        self._ports = tuple(_PORTS.values()) if ports is None and allowed is is_public else ports

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
        except (OSError, ssl.SSLError, h11.ProtocolError, UnicodeError) as error:
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
            target = self._next(target, answer.location)
        raise _failed(f"{target.hostname} sends on for ever")

    def _next(self, target: SplitResult, location: str) -> SplitResult:
        """Where a host sends on to."""
        try:
            there = urlsplit(urljoin(target.geturl(), location))
            elsewhere = there.hostname != target.hostname
        except ValueError as error:
            raise _failed(f"{target.hostname} sends on to an address that is none") from error
        if elsewhere:
            raise _failed(f"{target.hostname} sends on to another host")
        return self._target(there.geturl())

    async def _get(self, target: SplitResult) -> _Answer:
        host, port = target.hostname or "", target.port or _PORTS[target.scheme]
        addresses = await self._resolve(host, port)
        if not addresses or not all(self._allowed(address) for address in addresses):
            raise _failed(f"{host} is no public host")
        if self._ports is not None and port not in self._ports:
            raise _failed("images are fetched from the ports of HTTP and HTTPS only")
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
