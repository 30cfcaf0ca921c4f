"""What comes back for a request: pieces of text as they are sure, and one last word; for threads and for asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from edgeq.errors import EdgeqError

__all__ = ["Done", "Event", "Failed", "Reason", "Stream", "Token", "TokenLogprob", "Usage"]

Reason = Literal["stop", "stop_string", "limit", "context", "cancelled"]
"""Why an answer ended: a token that ends answers, a text that was to end it, the number of tokens asked for, the end of
the context, or `Stream.cancel`."""


@dataclass(frozen=True)
class TokenLogprob:
    """A token of an answer, and how likely it was.

    Attributes:
        text: of the token alone.
        data: its bytes, which are no text by themselves where a character is of several tokens.
        logprob: natural logarithm of its chance at temperature 1, of the logits that it was chosen from.
        top: the likeliest tokens in its place, as many as were asked for, without any of their own.
    """

    text: str
    data: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Token:
    """Text that is sure: one token's, or that of several when text was held back. All pieces make `Done.text`.

    Attributes:
        text: the piece.
        logprobs: of the tokens since the last piece, where they were asked for.
    """

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Usage:
    """What a request took.

    Attributes:
        prompt_tokens: images and text.
        image_tokens: of these, the images'.
        cached_tokens: of the prompt's, those that an earlier request had read already.
        answer_tokens: said, the one that ended the answer included.
        encoder_cache_hit: the features of all images were there already, or not needed.
        queue_seconds: from submission to start.
        first_token_seconds: from submission to the first token; of an answer without one, as `seconds`.
        seconds: from submission to the end.
    """

    prompt_tokens: int
    image_tokens: int
    cached_tokens: int
    answer_tokens: int
    encoder_cache_hit: bool
    queue_seconds: float
    first_token_seconds: float
    seconds: float


@dataclass(frozen=True)
class Done:
    """The end of an answer.

    Attributes:
        reason: why it ended.
        usage: what it took.
        text: all of it, without special tokens and without spaces around it.
        token_ids: as they were chosen, the one that ended it included.
        logprobs: of the tokens of the text, where they were asked for.
    """

    reason: Reason
    usage: Usage
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Failed:
    """The end of a request that could not be answered; `edgeq.runtime.scheduler.errors.DeadlineError` when it took too
    long.
    """

    error: EdgeqError


Event = Token | Done | Failed


class Stream:
    """Events of one request: any number of `Token`, and last either `Done` or `Failed`.

    One consumer reads it once, with `for` in a thread or with `async for` in an event loop. `cancel` and `put` may be
    called from any thread. Events wait here until they are read; an answer's length bounds them.

    Args:
        id: of the request.
        cancel: called by `cancel`.
    """

    def __init__(self, id: str, cancel: Callable[[str], None]) -> None:
        self.id = id
        self._cancel = cancel
        self._events: deque[Event] = deque()
        self._changed = threading.Condition()
        self._wake: Callable[[], None] | None = None

    def cancel(self) -> None:
        """The answer is no longer wanted; it ends within one step. Again, or after the end, it does nothing."""
        self._cancel(self.id)

    def put(self, event: Event) -> None:
        """Add an event; for the runtime."""
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()
            if self._wake is not None:
                self._wake()

    def wait_taken(self, seconds: float) -> None:
        """Let an event loop that reads take what is there, for so long at most; for the runtime.

        Else it would wait for the interpreter's lock, which a thread that goes on with the next step gives away and
        takes back again too quickly.
        """
        with self._changed:
            if self._wake is not None:
                self._changed.wait_for(lambda: not self._events, seconds)

    def __iter__(self) -> Iterator[Event]:
        """The events, as they come; waits in this thread."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._events)
                event = self._events.popleft()
            yield event
            if not isinstance(event, Token):
                return

    async def __aiter__(self) -> AsyncIterator[Event]:
        """The events, as they come; other tasks of the event loop go on meanwhile."""
        loop, ready = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop was closed meanwhile: nobody reads any more
                loop.call_soon_threadsafe(ready.set)

        while True:
            with self._changed:
                self._wake = wake
                events = list(self._events)
                self._events.clear()
                self._changed.notify_all()
            for event in events:
                yield event
                if not isinstance(event, Token):
                    return
            if not events:
                await ready.wait()
            ready.clear()
