"""Between a request and the runtime: ask, wait for the answer as long as somebody listens, and count it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, TypeVar

import anyio
from anyio import to_thread
from starlette.requests import Request

from edgeq.runtime.scheduler.errors import RefusedImageError
from edgeq.runtime.vlm.api import GREEDY, EncodedImage, GenerationRequest, SamplingParams, Turn, check_turns
from edgeq.runtime.vlm.constrained.schema import schema_text
from edgeq.runtime.vlm.stream import Done, Failed, Stream, Token
from edgeq.service.http.connection import while_connected
from edgeq.service.http.errors import RequestError, as_request_error
from edgeq.service.metrics import Metrics
from edgeq.service.routes.image_input import ImageInputs, ImageSource
from edgeq.service.runtime_protocol import RuntimeProtocol

__all__ = ["Query", "Submitter"]

_GRACE_S: Final = 5.0
"""So much later than the runtime's own deadline a request is given up, where the runtime says nothing at all."""

_Result = TypeVar("_Result")


class Query:
    """What is asked, but for the images themselves.

    Args:
        turns: the conversation.
        sources: images, in the order of their places in it.
        max_tokens: tokens of the answer.
        sampling: how they are chosen.
        stop: texts that end it.
        schema: that the answer is a document of; None for any text.
        logprobs: likeliest tokens that are told beside each of the answer; None for nothing of it.

    Attributes:
        sources: the same.
        images: each once, in the order of their first places.

    Raises:
        InputError: the turns do not fit together.
        SchemaError: the schema is too large.
    """

    def __init__(
        self,
        turns: tuple[Turn, ...],
        sources: tuple[ImageSource, ...],
        max_tokens: int,
        sampling: SamplingParams = GREEDY,
        stop: tuple[str, ...] = (),
        schema: Mapping[str, Any] | None = None,
        logprobs: int | None = None,
    ) -> None:
        check_turns(turns, len(sources))
        first = {source.url: source for source in reversed(sources)}
        self.sources = sources
        self.images = tuple(source for source in sources if first[source.url] is source)
        self._turns = turns
        self._max_tokens = max_tokens
        self._sampling = sampling
        self._stop = stop
        self._schema = None if schema is None else schema_text(schema)
        self._logprobs = logprobs

    def with_images(self, images: tuple[EncodedImage, ...]) -> GenerationRequest:
        """As the runtime takes it.

        Args:
            images: the files of `images`.

        Raises:
            InputError: it cannot be asked.
        """
        files = {source.url: file for source, file in zip(self.images, images, strict=True)}
        placed = tuple(files[source.url] for source in self.sources)
        return GenerationRequest(
            images=placed,
            turns=self._turns,
            max_new_tokens=self._max_tokens,
            sampling=self._sampling,
            stop=self._stop,
            schema=self._schema,
            logprobs=self._logprobs,
        )


class Submitter:
    """Asks the runtime.

    Args:
        talk: the runtime.
        pictures: opens images.
        metrics: counts answers.
        seconds: from a request's header to the end of its answer.
    """

    def __init__(self, talk: RuntimeProtocol, pictures: ImageInputs, metrics: Metrics, seconds: float) -> None:
        self._talk = talk
        self._pictures = pictures
        self._metrics = metrics
        self._seconds = seconds

    async def submit(self, request: Request, query: Query) -> Stream:
        """Open the images and ask.

        The caller must cancel the stream at the end.

        Raises:
            RequestError: of an image.
            EdgeqError: the runtime refuses.
        """
        known = self._known(request, query)
        if known is not None:
            return known

        async def ask() -> Stream:
            if not query.sources:
                return await to_thread.run_sync(self._ask, request, query, ())
            return await self._pictures.use(query.images, partial(self._ask, request, query))

        return await while_connected(request.receive, ask)

    def _known(self, request: Request, query: Query) -> Stream | None:
        """The answer to what was asked before, without a thread; None for anything else."""
        images = self._pictures.small(query.images)
        left = self._left(request)
        return None if images is None or left <= 0 else self._talk.submit_known(query.with_images(images), left)

    def _ask(self, request: Request, query: Query, images: tuple[EncodedImage, ...]) -> Stream:
        left = self._left(request)
        if left <= 0:
            raise RequestError(408, "deadline", "the request took too long to come in")
        try:
            return self._talk.submit(query.with_images(images), left)
        except RefusedImageError as error:
            raise as_request_error(error).at(query.sources[error.number].place) from error

    def _left(self, request: Request) -> float:
        start: float = request.scope["edgeq.start"]
        return start + self._seconds - time.monotonic()

    async def events(self, request: Request, stream: Stream) -> AsyncIterator[Token | Done]:
        """What is answered, as it comes; its end is noted.

        Raises:
            EdgeqError: the request could not be answered.
            RequestError: it was cut off from inside, because the service stops.
        """
        events = aiter(stream)
        while True:
            event = await self._in_time(request, partial(anext, events))
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Done):
                self._note(request, event)
                yield event
                return
            yield event

    async def whole(self, request: Request, stream: Stream) -> Done:
        """The end of the answer; raises as `events`."""

        async def last() -> Done:
            async for event in self.events(request, stream):
                if isinstance(event, Done):
                    return event
            raise AssertionError("a stream ends with Done or Failed")

        return await while_connected(request.receive, last)

    async def _in_time(self, request: Request, work: Callable[[], Awaitable[_Result]]) -> _Result:
        """The result of `work`; RequestError 408 where a runtime that is stuck lets it wait for ever."""
        try:
            with anyio.fail_after(max(self._left(request), 0) + _GRACE_S):
                return await work()
        except TimeoutError as error:
            raise RequestError(408, "deadline", "the model did not answer in time") from error

    def _note(self, request: Request, done: Done) -> None:
        """Count an answer, and put it into the log; raises RequestError where it was cut off from inside."""
        usage = done.usage
        self._metrics.said(usage)
        request.scope["edgeq.fields"].update(
            ended=done.reason,
            prompt_tokens=usage.prompt_tokens,
            image_tokens=usage.image_tokens,
            cached_tokens=usage.cached_tokens,
            answer_tokens=usage.answer_tokens,
            queue_seconds=round(usage.queue_seconds, 4),
            first_token_seconds=round(usage.first_token_seconds, 4),
        )
        if done.reason == "cancelled":
            raise RequestError(503, "draining", "the service is stopping", retry_after=5)
