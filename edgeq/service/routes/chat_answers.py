"""What `/v1/chat/completions` answers, as OpenAI's clients read it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

__all__ = [
    "AssistantMessage",
    "Choice",
    "ChunkChoice",
    "Completion",
    "CompletionChunk",
    "ContentLogprob",
    "Delta",
    "FinishReason",
    "Logprobs",
    "PromptDetails",
    "TokenUsage",
    "TopLogprob",
]

FinishReason = Literal["stop", "length"]


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, json_schema_serialization_defaults_required=True)


class PromptDetails(_Answer):
    """Of the prompt's tokens, those that an earlier request had read already, and those of images."""

    cached_tokens: int
    image_tokens: int


class TokenUsage(_Answer):
    """What a request took, in tokens and in seconds; the first token is there after `queue_time` and `prompt_time`.

    Attributes:
        queue_time: from submission to the start.
        prompt_time: from there to the first token.
        completion_time: from there to the end, all tokens after the first.
        total_time: of these three.
    """

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    queue_time: float
    prompt_time: float
    completion_time: float
    total_time: float


class AssistantMessage(_Answer):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class TopLogprob(_Answer):
    """A token, and how likely it was.

    Attributes:
        token: its text.
        logprob: natural logarithm of its chance, at temperature 1.
        bytes: of the token, from which a character of several tokens can be put together.
    """

    token: str
    logprob: float
    bytes: tuple[int, ...]


class ContentLogprob(TopLogprob):
    """A token of the answer, and the likeliest in its place."""

    top_logprobs: tuple[TopLogprob, ...]


class Logprobs(_Answer):
    """How likely the tokens of a text were."""

    content: tuple[ContentLogprob, ...]
    refusal: None = None


class Choice(_Answer):
    """The one answer that there is, and why it ended: by itself, or at the largest number of tokens."""

    index: Literal[0] = 0
    message: AssistantMessage
    finish_reason: FinishReason
    logprobs: Logprobs | None = None


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
    logprobs: Logprobs | None = None


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
