"""Work that ends when the client hangs up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TypeVar

import anyio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from edgeq.service.http.errors import RequestError

__all__ = ["EventStream", "while_connected", "within"]

_Result = TypeVar("_Result")


async def while_connected(receive: Receive, work: Callable[[], Awaitable[_Result]]) -> _Result:
    """The result of `work`, which is cancelled when the client hangs up. The request's body must have been read.

    Raises:
        ClientDisconnect: the client hung up, and there is no result.
    """
    with anyio.CancelScope() as scope:

        async def listen() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            scope.cancel()

        listening = asyncio.ensure_future(listen())  # a task group would cost more than a text's embedding
        try:
            return await work()
        finally:
            listening.cancel()
    raise ClientDisconnect


async def within(request: Request, seconds: float, work: Callable[[], Awaitable[_Result]]) -> _Result:
    """The result of `work` in the time that a request has left.

    Args:
        request: whose body has been read.
        seconds: from its header to its answer.
        work: is cancelled where the time is over, or the client hangs up.

    Raises:
        RequestError: 408 it took longer.
        ClientDisconnect: the client hung up.
    """
    start: float = request.scope["edgeq.start"]
    left = max(start + seconds - time.monotonic(), 0)
    try:
        return await asyncio.wait_for(while_connected(request.receive, work), left)
    except asyncio.TimeoutError as error:
        raise RequestError(408, "deadline", "the request took too long") from error


class EventStream(Response):
    """Server-sent events (WHATWG HTML, section 9.2), each sent as soon as it is there.

    Nothing is sent before the first of them, so that what fails until then can be answered with a status of its own.

    Args:
        pieces: whole events.
        finish: called at the end, however it comes about.
        timeout: seconds that a client may take to read what is ready to be sent.
    """

    media_type = "text/event-stream"

    def __init__(self, pieces: AsyncIterator[bytes], finish: Callable[[], None], timeout: float) -> None:
        super().__init__(headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._pieces = pieces
        self._finish = finish
        self._timeout = timeout

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send all pieces, unless the client hangs up; raises what `pieces` raises."""
        try:
            complete = await while_connected(receive, partial(self._send_all, send))
        finally:
            self._finish()
        if not complete:
            raise ClientDisconnect

    async def _send_all(self, send: Send) -> bool:
        """Whether the client took all of it."""
        async for message in self._messages():
            with anyio.move_on_after(self._timeout) as timeout:
                await send(message)
            if timeout.cancelled_caught:
                return False
        return True

    async def _messages(self) -> AsyncIterator[Message]:
        begun = False
        async for piece in self._pieces:
            if not begun:
                yield {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
                begun = True
            yield {"type": "http.response.body", "body": piece, "more_body": True}
        yield {"type": "http.response.body", "body": b"", "more_body": False}
