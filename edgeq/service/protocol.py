"""HTTP/1.1 as uvicorn speaks it; besides, a header must come in time, and each refusal is an error object.

uvicorn ends an idle connection, and not one on which a header comes byte by byte.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from edgeq.service.faults import RequestError

__all__ = ["protocol_class"]

_REASONS: Final = {400: b"Bad Request", 408: b"Request Timeout"}


def protocol_class(seconds: float) -> type[asyncio.Protocol]:
    """A protocol that gives a header so many seconds."""

    class Protocol(_Impatient):
        header_seconds = seconds

    return Protocol


class _Impatient(H11Protocol):
    header_seconds: float
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_header()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop()
        elif self._timer is None:
            self._await_header()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self._refuse(RequestError(400, "bad_http", msg))

    def _await_header(self) -> None:
        self._timer = self.loop.call_later(self.header_seconds, self._late)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if not self.transport.is_closing() and self.conn.their_state is h11.IDLE:
            self._refuse(
                RequestError(408, "header_too_slow", f"the header did not come within {self.header_seconds:g} s")
            )

    def _refuse(self, fault: RequestError) -> None:
        """Answer outside of the application, and close."""
        body = fault.body.model_dump_json().encode()
        headers: list[tuple[bytes, bytes]] = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        events: tuple[Any, ...] = (
            h11.Response(status_code=fault.status, headers=headers, reason=_REASONS[fault.status]),
            h11.Data(data=body),
            h11.EndOfMessage(),
        )
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            for event in events:
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
