"""`/v1/chat/completions` as OpenAI's clients write and read it: what this service takes of it, and nothing silently.

A field that would change the answer and is not known here is refused; one that only asks for what is done anyway, such
as `n: 1`, is taken.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
)

from edgeq.runtime.vlm.model import MAX_NEW_TOKENS
from edgeq.service.routes.schemas import IMAGE_URI

__all__ = [
    "AssistantMessage",
    "ChatRequest",
    "Choice",
    "ChunkChoice",
    "Completion",
    "CompletionChunk",
    "Delta",
    "FinishReason",
    "ImagePart",
    "Message",
    "TextPart",
    "TokenUsage",
]

_MOST_CHARACTERS = 100_000
_MOST_PARTS = 128
_MOST_MESSAGES = 64
_MOST_TOKENS = 1_000_000

FinishReason = Literal["stop", "length"]
Text = Annotated[str, StringConstraints(max_length=_MOST_CHARACTERS)]
Zero = Annotated[float, Field(ge=0, le=0)]


class _Form(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class TextPart(_Form):
    """A piece of text."""

    type: Literal["text"]
    text: Text


class ImageUrl(_Form):
    """Where an image is: `data:image/jpeg;base64,...`, or an address of a host that was allowed.

    Attributes:
        url: of the image.
        detail: taken and not used: an image is always seen as the model sees it.
    """

    url: str = Field(min_length=1, json_schema_extra={"format": IMAGE_URI})
    detail: Literal["auto", "low", "high", "original"] = "auto"


class ImagePart(_Form):
    """An image."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(_Form):
    """One message: a text, or texts and images in any order; images in the user's only."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[tuple[Part, ...], Field(min_length=1, max_length=_MOST_PARTS)]
    name: Text | None = None

    @property
    def parts(self) -> tuple[TextPart | ImagePart, ...]:
        """What it consists of, in order."""
        return (TextPart(type="text", text=self.content),) if isinstance(self.content, str) else self.content


class StreamOptions(_Form):
    """How an answer is streamed."""

    include_usage: bool = False
    include_obfuscation: bool = False


class ChatRequest(_Form):
    """A question, mostly about images.

    Attributes:
        model: as `/v1/models` names it.
        messages: the conversation, the last by the user. In all of them at most so many images as `/v1/models` says.
        max_tokens, max_completion_tokens: of the answer, at most; the second is the newer name and goes first.
        temperature: 0 takes the likeliest token, and is the default here.
        top_p: only the likeliest tokens are drawn from, as few as have this probability together.
        seed: the same seed gives the same answer.
        stop: texts that end the answer.
        stream: send the answer as it is made, as server-sent events.
        n, presence_penalty, frequency_penalty, logprobs: as they are without being asked for; nothing else is done.
        user, safety_identifier, metadata, store: taken and not used.
    """

    model: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    messages: Annotated[tuple[Message, ...], Field(min_length=1, max_length=_MOST_MESSAGES)]
    max_tokens: int | None = Field(default=None, ge=1, le=_MOST_TOKENS)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=_MOST_TOKENS)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=0, le=2**63 - 1)
    stop: Text | Annotated[tuple[Text, ...], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    presence_penalty: Zero | None = None
    frequency_penalty: Zero | None = None
    logprobs: Literal[False] | None = None
    user: Text | None = None
    safety_identifier: Text | None = None
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None

    @property
    def max_new_tokens(self) -> int:
        """Tokens of the answer, at most."""
        return self.max_completion_tokens or self.max_tokens or MAX_NEW_TOKENS

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end the answer."""
        return (self.stop,) if isinstance(self.stop, str) else self.stop or ()


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, json_schema_serialization_defaults_required=True)


class PromptDetails(_Answer):
    """Of the prompt's tokens, those that an earlier request had read already, and those of images."""

    cached_tokens: int
    image_tokens: int


class TokenUsage(_Answer):
    """What a request took, in tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class AssistantMessage(_Answer):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(_Answer):
    """The one answer that there is, and why it ended: by itself, or at the largest number of tokens."""

    index: Literal[0] = 0
    message: AssistantMessage
    finish_reason: FinishReason
    logprobs: None = None


class Completion(_Answer):
    """An answer in one piece."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: tuple[Choice, ...]
    usage: TokenUsage


class Delta(BaseModel):
    """What comes to the answer."""

    model_config = ConfigDict(frozen=True)

    role: Literal["assistant"] | None = None
    content: str | None = None

    @model_serializer(mode="wrap")
    def _what_is_there(self, dump: SerializerFunctionWrapHandler) -> dict[str, str]:
        return {key: value for key, value in dump(self).items() if value is not None}


class ChunkChoice(BaseModel):
    """A piece of the one answer that there is."""

    model_config = ConfigDict(frozen=True)

    index: Literal[0] = 0
    delta: Delta
    finish_reason: FinishReason | None = None
    logprobs: None = None


class CompletionChunk(BaseModel):
    """A piece of an answer, one server-sent event; `data: [DONE]` is the last."""

    model_config = ConfigDict(frozen=True)

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: tuple[ChunkChoice, ...]
    usage: TokenUsage | None = None
