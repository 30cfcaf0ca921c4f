"""`POST /v1/chat/completions` and `GET /v1/models`."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from edgeq.runtime.vlm.api import IMAGE, ImagePlace, Role, SamplingParams, Turn
from edgeq.runtime.vlm.stream import Done, Stream, Token, TokenLogprob
from edgeq.runtime.vlm.stream import Usage as Took
from edgeq.service.http.connection import EventStream
from edgeq.service.http.errors import RequestError, as_request_error
from edgeq.service.http.request_body import RequestBodies
from edgeq.service.routes.chat_answers import (
    AssistantMessage,
    Choice,
    ChunkChoice,
    Completion,
    CompletionChunk,
    ContentLogprob,
    Delta,
    FinishReason,
    Logprobs,
    PromptDetails,
    TokenUsage,
    TopLogprob,
)
from edgeq.service.routes.chat_schema import ChatRequest, ImagePart, Message
from edgeq.service.routes.image_input import ImageSource
from edgeq.service.routes.submit import Query, Submitter
from edgeq.service.served_model import ServedModel

__all__ = ["Chat", "query_of"]

_FINISHED: Final[dict[str, FinishReason]] = {
    "stop": "stop",
    "stop_string": "stop",
    "limit": "length",
    "context": "length",
    "cancelled": "length",
}
_ROLES: Final[dict[str, Role]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
_LAST: Final = b"data: [DONE]\n\n"
_MOST_PLACES: Final = 64
"""Of images in a conversation, the same image at several of them."""


@dataclass(frozen=True)
class _Heading:
    """What all pieces of one answer have in common."""

    id: str
    created: int
    model: str
    fingerprint: str

    def chunk(self, *choices: ChunkChoice, usage: TokenUsage | None = None) -> bytes:
        """One server-sent event."""
        piece = CompletionChunk(
            id=self.id,
            created=self.created,
            model=self.model,
            system_fingerprint=self.fingerprint,
            choices=choices,
            usage=usage,
        )
        return b"data: " + piece.model_dump_json().encode() + b"\n\n"


class Chat:
    """Answers questions about images.

    Args:
        served: the bundle.
        asking: asks the runtime.
        intake: reads bodies.
        timeout: seconds that a client may take to read a piece of its answer.
        max_images: in one request.
    """

    def __init__(
        self, served: ServedModel, asking: Submitter, intake: RequestBodies, *, timeout: float, max_images: int
    ) -> None:
        self._served = served
        self._asking = asking
        self._intake = intake
        self._timeout = timeout
        self._max_images = max_images

    async def __call__(self, request: Request) -> Response:
        """Answer one request, whole or in pieces."""
        with self._intake.room(request):
            asked = await self._intake.parse(request, ChatRequest)
            self._served.take_name(request, asked.model)
            query = query_of(asked, self._max_images, self._served.most_images)
            stream = await self._asking.submit(request, query)
        fingerprint = self._served.digest[:12]
        heading = _Heading(f"chatcmpl-{secrets.token_hex(12)}", int(time.time()), self._served.name, fingerprint)
        if not asked.stream:
            return await self._whole(request, stream, heading, logprobs=bool(asked.logprobs))
        usage = bool(asked.stream_options and asked.stream_options.include_usage)
        return EventStream(self._pieces(request, stream, heading, usage=usage), stream.cancel, self._timeout)

    async def _whole(self, request: Request, stream: Stream, heading: _Heading, *, logprobs: bool) -> Response:
        try:
            done = await self._asking.whole(request, stream)
        finally:
            stream.cancel()
        answer = Completion(
            id=heading.id,
            created=heading.created,
            model=heading.model,
            system_fingerprint=heading.fingerprint,
            choices=(
                Choice(
                    message=AssistantMessage(content=done.text),
                    finish_reason=_FINISHED[done.reason],
                    logprobs=_logprobs(done.logprobs) if logprobs else None,
                ),
            ),
            usage=_tokens(done.usage),
        )
        return Response(answer.model_dump_json(), media_type="application/json")

    async def _pieces(
        self, request: Request, stream: Stream, heading: _Heading, *, usage: bool
    ) -> AsyncIterator[bytes]:
        """The answer as it is sent; raises what goes wrong before anything of it is there."""
        opening = heading.chunk(ChunkChoice(delta=Delta(role="assistant", content="")))
        told = 0
        try:
            async for event in self._asking.events(request, stream):
                new = event.logprobs[told if isinstance(event, Done) else 0 :]
                yield opening + heading.chunk(_choice(event, new))
                opening, told = b"", told + len(new)
                if usage and isinstance(event, Done):
                    yield heading.chunk(usage=_tokens(event.usage))
        except Exception as error:
            if opening:
                raise
            fault = as_request_error(error)
            request.scope["edgeq.fields"]["code"] = fault.code
            yield b"data: " + fault.body.model_dump_json().encode() + b"\n\n"
            return
        yield _LAST


def query_of(asked: ChatRequest, max_images: int, most_places: int | None = None) -> Query:
    """The conversation, its images apart.

    Args:
        asked: the request.
        max_images: that may be asked about; the same image again is one.
        most_places: of images that the model takes; where there are more, an image stands at its first place alone.

    Raises:
        RequestError: 422 there are more images than that, or one is not in a message of the user.
        InputError: the messages do not fit together.
        SchemaError: the schema is too large.
    """
    sources = tuple(_images(asked.messages))
    distinct = len({source.url for source in sources})
    if distinct > max_images or len(sources) > _MOST_PLACES:
        told = f"{distinct} images; at most {max_images} can be asked about"
        if distinct <= max_images:
            told = f"images at {len(sources)} places; at most {_MOST_PLACES} are taken"
        raise RequestError(422, "too_many_images", told, param="messages")
    sampling = SamplingParams(asked.temperature or 0.0, 1.0 if asked.top_p is None else asked.top_p, asked.drawn_seed)
    turns = tuple(_turn(message) for message in asked.messages if not message.says_nothing)
    if most_places is not None and len(sources) > most_places:
        turns, sources = _first_places(turns, sources)
    return Query(
        *(turns, sources, asked.max_new_tokens, sampling, asked.stops),
        schema=asked.schema_given,
        logprobs=asked.told_logprobs,
    )


def _first_places(
    turns: tuple[Turn, ...], sources: tuple[ImageSource, ...]
) -> tuple[tuple[Turn, ...], tuple[ImageSource, ...]]:
    """The same with each image where it stands first, and nowhere else."""
    left, seen, kept = iter(sources), set[str](), []
    found = []
    for turn in turns:
        parts: list[str | ImagePlace] = []
        for part in turn.parts:
            if isinstance(part, ImagePlace):
                source = next(left)
                if source.url in seen:
                    continue
                seen.add(source.url)
                kept.append(source)
            parts.append(part)
        found.append(Turn(turn.role, tuple(parts)))
    return tuple(found), tuple(kept)


def _images(messages: Sequence[Message]) -> Iterator[ImageSource]:
    """In their order; raises RequestError for one that the user did not send."""
    for number, message in enumerate(messages):
        for at, part in enumerate(message.parts):
            if not isinstance(part, ImagePart):
                continue
            place = f"messages.{number}.content.{at}"
            if message.role != "user":
                told = f"an image in a message of the {message.role}; only the user's may have some"
                raise RequestError(422, "image_not_by_user", told, param=place)
            yield ImageSource(part.url, place)


def _turn(message: Message) -> Turn:
    """A message with all of its parts in their order."""
    parts = (IMAGE if isinstance(part, ImagePart) else part.text for part in message.parts)
    return Turn(_ROLES[message.role], tuple(parts))


def _choice(event: Token | Done, new: Sequence[TokenLogprob]) -> ChunkChoice:
    """A piece of the answer, or its end, with what is told of tokens since the last piece."""
    logprobs = _logprobs(new) if new else None
    if isinstance(event, Done):
        return ChunkChoice(delta=Delta(), finish_reason=_FINISHED[event.reason], logprobs=logprobs)
    return ChunkChoice(delta=Delta(content=event.text), logprobs=logprobs)


def _logprobs(tokens: Sequence[TokenLogprob]) -> Logprobs:
    return Logprobs(
        content=tuple(
            ContentLogprob(
                token=one.text,
                logprob=one.logprob,
                bytes=tuple(one.data),
                top_logprobs=tuple(
                    TopLogprob(token=top.text, logprob=top.logprob, bytes=tuple(top.data)) for top in one.top
                ),
            )
            for one in tokens
        )
    )


def _tokens(took: Took) -> TokenUsage:
    return TokenUsage(
        prompt_tokens=took.prompt_tokens,
        completion_tokens=took.answer_tokens,
        total_tokens=took.prompt_tokens + took.answer_tokens,
        prompt_tokens_details=PromptDetails(cached_tokens=took.cached_tokens, image_tokens=took.image_tokens),
        queue_time=took.queue_seconds,
        prompt_time=took.first_token_seconds - took.queue_seconds,
        completion_time=took.seconds - took.first_token_seconds,
        total_time=took.seconds,
    )
