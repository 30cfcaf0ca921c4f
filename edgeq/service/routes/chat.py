"""`POST /v1/chat/completions` and `GET /v1/models`."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from edgeq.runtime.vlm.api import Role, SamplingParams, Turn
from edgeq.runtime.vlm.stream import Done, Stream, Token
from edgeq.runtime.vlm.stream import Usage as Took
from edgeq.service.http.connection import EventStream
from edgeq.service.http.errors import RequestError, as_request_error
from edgeq.service.http.request_body import RequestBodies
from edgeq.service.routes.chat_schema import (
    AssistantMessage,
    ChatRequest,
    Choice,
    ChunkChoice,
    Completion,
    CompletionChunk,
    Delta,
    FinishReason,
    ImagePart,
    Message,
    PromptDetails,
    TokenUsage,
)
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
    """

    def __init__(self, served: ServedModel, asking: Submitter, intake: RequestBodies, timeout: float) -> None:
        self._served = served
        self._asking = asking
        self._intake = intake
        self._timeout = timeout

    async def __call__(self, request: Request) -> Response:
        """Answer one request, whole or in pieces."""
        with self._intake.room(request):
            asked = await self._intake.parse(request, ChatRequest)
            self._served.check_name(asked.model)
            stream = await self._asking.submit(request, query_of(asked))
        fingerprint = self._served.digest[:12]
        heading = _Heading(f"chatcmpl-{secrets.token_hex(12)}", int(time.time()), self._served.name, fingerprint)
        if not asked.stream:
            return await self._whole(request, stream, heading)
        usage = bool(asked.stream_options and asked.stream_options.include_usage)
        return EventStream(self._pieces(request, stream, heading, usage=usage), stream.cancel, self._timeout)

    async def _whole(self, request: Request, stream: Stream, heading: _Heading) -> Response:
        try:
            done = await self._asking.whole(request, stream)
        finally:
            stream.cancel()
        answer = Completion(
            id=heading.id,
            created=heading.created,
            model=heading.model,
            system_fingerprint=heading.fingerprint,
            choices=(Choice(message=AssistantMessage(content=done.text), finish_reason=_FINISHED[done.reason]),),
            usage=_tokens(done.usage),
        )
        return Response(answer.model_dump_json(), media_type="application/json")

    async def _pieces(
        self, request: Request, stream: Stream, heading: _Heading, *, usage: bool
    ) -> AsyncIterator[bytes]:
        """The answer as it is sent; raises what goes wrong before anything of it is there."""
        opening = heading.chunk(ChunkChoice(delta=Delta(role="assistant", content="")))
        try:
            async for event in self._asking.events(request, stream):
                yield opening + heading.chunk(_choice(event))
                opening = b""
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


def query_of(asked: ChatRequest) -> Query:
    """The conversation, its one image apart.

    Raises:
        RequestError: 422 there is more than one image, or the messages do not fit together.
    """
    images = [
        part.image_url.url for message in asked.messages for part in _parts(message) if isinstance(part, ImagePart)
    ]
    if len(images) > 1:
        raise RequestError(422, "several_images", f"{len(images)} images; one can be asked about", param="messages")
    sampling = SamplingParams(asked.temperature or 0.0, 1.0 if asked.top_p is None else asked.top_p, asked.seed)
    turns = tuple(_turn(message) for message in asked.messages)
    return Query(turns, images[0] if images else None, asked.max_new_tokens, sampling, asked.stops)


def _parts(message: Message) -> tuple[object, ...]:
    return () if isinstance(message.content, str) else message.content


def _turn(message: Message) -> Turn:
    """Texts of one message belong together; the image stands before them."""
    if isinstance(message.content, str):
        return Turn(_ROLES[message.role], message.content)
    texts = [part.text for part in message.content if not isinstance(part, ImagePart)]
    image = any(isinstance(part, ImagePart) for part in message.content)
    return Turn(_ROLES[message.role], "\n".join(texts), image)


def _choice(event: Token | Done) -> ChunkChoice:
    if isinstance(event, Done):
        return ChunkChoice(delta=Delta(), finish_reason=_FINISHED[event.reason])
    return ChunkChoice(delta=Delta(content=event.text))


def _tokens(took: Took) -> TokenUsage:
    return TokenUsage(
        prompt_tokens=took.prompt_tokens,
        completion_tokens=took.answer_tokens,
        total_tokens=took.prompt_tokens + took.answer_tokens,
        prompt_tokens_details=PromptDetails(cached_tokens=took.cached_tokens),
    )
