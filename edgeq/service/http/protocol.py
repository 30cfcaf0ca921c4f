"""HTTP/1.1 as uvicorn and httptools speak it, with what they leave open: a header ends, in time, and names one host.

uvicorn ends an idle connection, and not one on which a header comes byte by byte or goes on for ever, nor one with
requests that do not wait for answers. Each refusal is an error object.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from edgeq.service.http.errors import RequestError

__all__ = ["HEADER_BYTES", "protocol_class"]

HEADER_BYTES: Final = 64 << 10
"""A header that is longer, and still not at its end, is refused."""

_AHEAD: Final = 16
"""Requests that a client may send before the first of them is answered; each takes memory."""


def protocol_class(seconds: float) -> type[asyncio.Protocol]:
    """A protocol that gives a header so many seconds."""

    class Protocol(_Impatient):
        header_seconds = seconds

    return Protocol


class _Impatient(HttpToolsProtocol):
    header_seconds: float
    _timer: asyncio.TimerHandle | None = None
    _header_bytes = 0
    _in_body = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_header()

    def data_received(self, data: bytes) -> None:
        before = self._timer
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._timer is None:
            if not self._answering:  # what is left of a body that was not wanted has as much time as a header
                self._await_header()
        elif self._timer is before and not self._in_body:
            self._header_bytes += len(data)
            if self._header_bytes > HEADER_BYTES:
                self._refuse(RequestError(431, "header_too_large", f"the header has more than {HEADER_BYTES:,} bytes"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= _AHEAD:
            raise ValueError("too many requests at once on one connection")  # the parser fails
        super().on_message_begin()
        if self._timer is None:
            self._await_header()

    def on_headers_complete(self) -> None:
        self._stop()
        self._in_body = True
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts != 1 and (hosts > 1 or self.parser.get_http_version() == "1.1"):
            raise ValueError("a request has one host (RFC 9112, section 3.2)")  # the parser fails
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(RequestError(400, "bad_http", msg))

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _await_header(self) -> None:
        self._timer, self._header_bytes = self.loop.call_later(self.header_seconds, self._late), 0

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

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
