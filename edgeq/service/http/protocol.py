"""HTTP/1.1 as uvicorn and httptools speak it, with what they leave open: a header ends, in time, and names one host.

uvicorn ends an idle connection, and not one on which a header comes byte by byte or goes on for ever, nor one with
requests that do not wait for answers. Every byte that is no part of a body counts: headers, the lines before chunks
with their extensions, trailers, which are read by nobody. Each refusal is an error object.

A client that has said all it has to say may close its half of the connection, and gets its answer (RFC 9112, section
9.6). One that has gone away looks the same until something is written to it, so that an answer which takes long is
preceded by `100 Continue`, which every client reads over.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from http import HTTPStatus
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from edgeq.service.http.connections import Connections
from edgeq.service.http.errors import RequestError

__all__ = ["HEADER_BYTES", "protocol_class"]

HEADER_BYTES: Final = 64 << 10
"""Of header, trailers and what is around the chunks of a body, together; a request with more is refused."""

_CHUNK_LINE: Final = 16
"""Bytes around a chunk that do not count, where it is of some length: its length, and two line ends."""

_UNREAD: Final = 8 << 20
"""Bytes of a body that still come when its request was answered; with more, the connection is closed."""

_STILL_THERE_S: Final = 1.0
"""A client that closed its half is looked for so often; the first time after so long."""

_SOON_S: Final = 0.1
_TCP_CLOSE: Final = 7  # Linux, include/net/tcp_states.h

_AHEAD: Final = 16
"""Requests that a client may send before the first of them is answered; each takes memory."""


def protocol_class(seconds: float, connections: Connections) -> type[asyncio.Protocol]:
    """A protocol that gives a header so many seconds, and counts its connections."""

    class Protocol(_Impatient):
        header_seconds = seconds
        together = connections

    return Protocol


class _Impatient(HttpToolsProtocol):
    header_seconds: float
    together: Connections
    _timer: asyncio.TimerHandle | None = None
    _looking: asyncio.TimerHandle | None = None
    _framing = 0
    _unread = 0
    _in_body = False
    _fault: RequestError | None = None
    _asked = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        try:
            self.together.come(self, self.client[0] if self.client else "")
        except RequestError as fault:
            self._refuse(fault)
        else:
            self._await_header()

    def give_way(self) -> None:
        self._stop()
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._framing += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._timer is None and not self._answering:  # the rest of an unwanted body has as much time as a header
            self._await_header()
        if self._framing > HEADER_BYTES:
            told = f"header, trailers and what is around chunks have more than {HEADER_BYTES:,} bytes"
            self._refuse(RequestError(431, "header_too_large", told))

    def eof_received(self) -> bool:  # type: ignore[override]
        """Whether the connection stays open: the client has said all, and waits for its answer."""
        waits = self._answering and not (self._in_body or self._timer is not None or self.cycle.response_started)
        if waits:
            self.cycle.keep_alive = False
            self._looking = self.loop.call_later(_STILL_THERE_S, self._look_for_client)
        return waits

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        self.together.gone(self)
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= _AHEAD:
            raise ValueError("too many requests at once on one connection")  # the parser fails
        super().on_message_begin()
        if self._timer is None:
            self._await_header()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_body:  # a trailer is no header: it has come behind everything that was decided by headers
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop()
        self._in_body = True
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts != 1 and (hosts > 1 or self.parser.get_http_version() == "1.1"):
            raise ValueError("a request has one host (RFC 9112, section 3.2)")  # the parser fails
        self._check_coding()
        self.together.busy(self)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._framing = max(self._framing - len(body) - min(len(body) // 8, _CHUNK_LINE), 0)
        if self.cycle.response_complete:
            self._unread += len(body)
            if self._unread > _UNREAD:
                raise ValueError("the body goes on behind its answer")  # the parser fails
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        self._framing = self._unread = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._answering:
            self.together.idle(self)

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._fault or RequestError(400, "bad_http", msg))

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _check_coding(self) -> None:
        """Let the parser fail where a body is coded in a way that is not read (RFC 9112, section 6.1)."""
        given = b",".join(value for name, value in self.headers if name == b"transfer-encoding")
        codings = [coding.strip().lower() for coding in given.split(b",") if coding.strip()]
        if codings in ([], [b"chunked"]) and not (codings and self.parser.get_http_version() != "1.1"):
            return
        if codings[-1] == b"chunked" and codings.count(b"chunked") == 1 and self.parser.get_http_version() == "1.1":
            told = "of transfer codings chunked alone is read"
            self._fault = RequestError(501, "transfer_encoding", told)
        raise ValueError("the body's length cannot be told")

    def _look_for_client(self) -> None:
        """Whether the client that closed its half still reads: something is written, and what comes back is looked at.

        A client that has gone away answers with a reset, and the connection is closed then.
        """
        if self.transport.is_closing() or not self._answering:
            return
        wire = self.transport.get_extra_info("socket")
        with suppress(OSError, AttributeError):  # of another kind than TCP: what is written to it fails by itself
            if wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE:
                self.transport.abort()
                return
        silent = not (self.pipeline or self.cycle.response_started) and self.scope["http_version"] == "1.1"
        self._asked = silent and not self._asked
        if self._asked:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._looking = self.loop.call_later(_SOON_S if self._asked else _STILL_THERE_S, self._look_for_client)

    def _await_header(self) -> None:
        self._timer = self.loop.call_later(self.header_seconds, self._late)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def _late(self) -> None:
        if self._answering:  # of the request before
            self._await_header()
        else:
            told = f"the header did not come within {self.header_seconds:g} s"
            self._refuse(RequestError(408, "header_too_slow", told))

    def _refuse(self, fault: RequestError) -> None:
        """Answer in the application's place, unless its answer has begun, and close."""
        self._stop()
        begun = self._answering and self.cycle.response_started
        if not (begun or self.transport.is_closing()):
            if self._answering:
                self.cycle.disconnected = True  # what it still says is for nobody
            body, status = fault.body.model_dump_json().encode(), HTTPStatus(fault.status)
            header = (
                f"HTTP/1.1 {status.value} {status.phrase}",
                "content-type: application/json",
                f"content-length: {len(body)}",
                "connection: close",
            )
            self.transport.write("\r\n".join([*header, "", ""]).encode() + body)
        self.transport.close()
