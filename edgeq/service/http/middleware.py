"""What every request goes through: an id, the door, the count, the log; and errors become answers."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from typing import Any

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgeq.service.http.access import Access
from edgeq.service.http.errors import RequestError, as_request_error, refusal
from edgeq.service.http.in_flight import InFlight
from edgeq.service.http.log import log, request_id
from edgeq.service.metrics import Metrics

__all__ = ["Middleware"]

_HEALTH = "/health/"
_SWALLOWED = 8 << 20
_SWALLOW_S = 1.0
_GONE = 499
"""What the log and the metrics say of a client that hung up; nothing is sent."""

_OTHER = "other"
_SHOWN = 200


class Middleware:
    """The outermost application.

    Args:
        inner: routes.
        paths: that are known; of others the metrics tell the route, `edgeq.path` of the scope, where one was found.
        access: the door.
        traffic: requests under way.
        metrics: counts.
    """

    def __init__(
        self, inner: ASGIApp, paths: Collection[str], access: Access, traffic: InFlight, metrics: Metrics
    ) -> None:
        self._inner = inner
        self._paths = frozenset(paths)
        self._access = access
        self._traffic = traffic
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']} is not served")
        exchange = _Exchange(scope, receive, send)
        scope["app"] = self
        try:
            await self._admitted(scope, exchange)
        except ClientDisconnect:
            exchange.status = _GONE
        except Exception as error:
            await self._refuse(_error_of(error), error, exchange)
        finally:
            self._note(exchange)

    async def _admitted(self, scope: Scope, exchange: _Exchange) -> None:
        holder = self._access.check(scope["path"], Headers(scope=scope))
        if scope["path"].startswith(_HEALTH):  # to be asked at any time
            await self._inner(scope, exchange.receive, exchange.send)
            return
        if holder is not None:
            exchange.fields["token"] = holder + 1
        with self._traffic.one(holder):
            await self._inner(scope, exchange.receive, exchange.send)

    async def _refuse(self, fault: RequestError, error: Exception, exchange: _Exchange) -> None:
        """Tell the client; where its answer has begun already, the connection ends in the middle of it."""
        exchange.fields["code"] = fault.code
        if fault.status >= 500 and fault.status != 503:
            log("failed", level=logging.ERROR, error=error, id=exchange.id)
        if exchange.status:
            raise error
        if fault.close and fault.status != 408:
            await exchange.swallow()
        await refusal(fault)(exchange.scope, exchange.receive, exchange.send)

    def _note(self, exchange: _Exchange) -> None:
        """Count it, and write it down."""
        path, seconds = exchange.scope["path"], time.monotonic() - exchange.start
        known = path if path in self._paths else exchange.scope.get("edgeq.path", _OTHER)
        self._metrics.answered(known, exchange.status, seconds)
        level = logging.DEBUG if path.startswith(_HEALTH) or path == "/metrics" else logging.INFO
        log(
            "request",
            level=level,
            id=exchange.id,
            method=exchange.scope["method"],
            path=path[:_SHOWN],
            status=exchange.status,
            seconds=round(seconds, 4),
            **exchange.fields,
        )


class _Exchange:
    """One request and what came of it so far."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.start = time.monotonic()
        self.status = 0
        self.fields: dict[str, Any] = {}
        self.id = request_id(Headers(scope=scope).get("x-request-id"))
        scope["edgeq.fields"] = self.fields
        scope["edgeq.start"] = self.start
        self._receive = receive
        self._send = send
        self._begun = self._whole = False

    async def receive(self) -> Message:
        """Pass on, and note whether the body is there to its end."""
        self._begun = True
        message = await self._receive()
        self._whole = self._whole or not message.get("more_body", False)
        return message

    async def swallow(self) -> None:
        """Take what is left of a body, a little of it: a client that still writes would not see why it is cut off."""
        if not self._begun and "expect" in Headers(scope=self.scope):
            return  # it writes nothing before it is told to (RFC 9110, section 10.1.1)
        left = _SWALLOWED
        with anyio.move_on_after(_SWALLOW_S):
            while left > 0 and not self._whole:
                left -= len((await self.receive()).get("body", b""))

    async def send(self, message: Message) -> None:
        """Pass on, with the id in the header."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self.id
            headers.setdefault("Cache-Control", "no-store")
        await self._send(message)


def _error_of(error: Exception) -> RequestError:
    if isinstance(error, HTTPException):  # of the router: no such path, or another method
        known = {404: ("not_found", "there is nothing at this path"), 405: ("method", "this path takes other methods")}
        code, told = known.get(error.status_code, ("refused", str(error.detail)))
        return RequestError(error.status_code, code, told, allow=(error.headers or {}).get("Allow", ""))
    return as_request_error(error)
