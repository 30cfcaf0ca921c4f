"""`/v1/chat/completions` as OpenAI's clients write it: what this service takes of it, and nothing silently.

What asks for nothing else than is done is taken: a field that is null, empty or at its default, a hint, and messages as
this service sends them. A field that would change the answer and is not known here is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Final, Literal

from pydantic import Field, JsonValue, StringConstraints

from edgeq.runtime.vlm.api import MOST_LOGPROBS
from edgeq.runtime.vlm.constrained.schema import ANY_OBJECT
from edgeq.runtime.vlm.model import MAX_NEW_TOKENS
from edgeq.service.routes.schemas import IMAGE_URI, Form

__all__ = ["ChatRequest", "ImagePart", "Message", "TextPart"]

_MOST_CHARACTERS: Final = 100_000
_MOST_PARTS: Final = 128
_MOST_MESSAGES: Final = 64
_MOST_TOKENS: Final = 1_000_000
_MOST_LABELS: Final = 16
_RANDOM_SEED: Final = -1
_SEEDS: Final = 1 << 64

Text = Annotated[str, StringConstraints(max_length=_MOST_CHARACTERS)]
_Word = Annotated[str, StringConstraints(max_length=512)]
_Labels = Annotated[dict[Annotated[str, StringConstraints(max_length=64)], _Word], Field(max_length=_MOST_LABELS)]
_Zero = Annotated[float, Field(ge=0, le=0)]
_One = Annotated[float, Field(ge=1, le=1)]
_NoList = Annotated[tuple[JsonValue, ...], Field(max_length=0)]
_NoObject = Annotated[dict[str, JsonValue], Field(max_length=0)]
_NoText = Annotated[str, StringConstraints(max_length=0)]


class TextPart(Form):
    """A piece of text.

    Attributes:
        text: that is said.
        annotations: none.
        cache_control: taken and not used: what was read is kept as long as there is room.
    """

    type: Literal["text"]
    text: Text
    annotations: _NoList | None = None
    cache_control: JsonValue = None


class ImageUrl(Form):
    """Where an image is: `data:image/jpeg;base64,...`, or an address of a host that was allowed.

    Attributes:
        url: of the image.
        detail: taken and not used: an image is always seen as the model sees it.
    """

    url: str = Field(min_length=1, json_schema_extra={"format": IMAGE_URI})
    detail: Literal["auto", "low", "high", "original"] | None = None


class ImagePart(Form):
    """An image, its address in an object or alone."""

    type: Literal["image_url"]
    image_url: ImageUrl | Annotated[str, Field(min_length=1, json_schema_extra={"format": IMAGE_URI})]
    cache_control: JsonValue = None

    @property
    def url(self) -> str:
        """Where it is."""
        return self.image_url if isinstance(self.image_url, str) else self.image_url.url


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(Form):
    """One message: a text, or texts and images in any order; images in the user's only.

    Attributes:
        role: who says it.
        content: what is said; null, as an empty text, in the assistant's only.
        name: taken and not used.
        refusal, audio, function_call, tool_calls, annotations, reasoning, reasoning_content: none, as in this service's
            own answers.
        parsed: taken and not used: what a client read out of `content`.
    """

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[tuple[Part, ...], Field(min_length=1, max_length=_MOST_PARTS)] | None = None
    name: Text | None = None
    refusal: _NoText | None = None
    audio: _NoObject | None = None
    function_call: _NoObject | None = None
    tool_calls: _NoList | None = None
    annotations: _NoList | None = None
    reasoning: _NoText | None = None
    reasoning_content: _NoText | None = None
    parsed: JsonValue = None

    @property
    def parts(self) -> tuple[TextPart | ImagePart, ...]:
        """What it consists of, in order."""
        if isinstance(self.content, tuple):
            return self.content
        return (TextPart(type="text", text=self.content or ""),)

    @property
    def says_nothing(self) -> bool:
        """A system message without text, which asks for nothing."""
        return self.role in ("system", "developer") and not any(_words(self.parts))


def _words(parts: Sequence[TextPart | ImagePart]) -> Iterator[bool]:
    """Of each part, whether there is something in it."""
    return (isinstance(part, ImagePart) or bool(part.text.strip()) for part in parts)


class StreamOptions(Form):
    """How an answer is streamed."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class PlainText(Form):
    """Any text, which is what is answered without being asked for."""

    type: Literal["text"]


class JsonObject(Form):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchema(Form):
    """A schema, and what it is called.

    Attributes:
        name, description: taken and not used: the model does not see the schema, so say in a message what is wanted.
        definition: as `schema`; any JSON object where it is left out.
        strict: an answer keeps to the schema in either case.
    """

    name: Annotated[str, StringConstraints(max_length=64)]
    description: Text | None = None
    definition: dict[str, JsonValue] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class SchemaFormat(Form):
    """A JSON document that a schema is true of."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[PlainText | JsonObject | SchemaFormat, Field(discriminator="type")]


class ChatRequest(Form):
    """A question, mostly about images.

    Attributes:
        model: as `/v1/models` names it.
        messages: the conversation, the last by the user. In all of them at most so many images as `/v1/models` says;
            the same image again counts once.
        max_tokens, max_completion_tokens: of the answer, at most; the second is the newer name and goes first.
        temperature: 0 takes the likeliest token, and is the default here.
        top_p: only the likeliest tokens are drawn from, as few as have this probability together.
        seed: the same seed gives the same answer; -1, as null, draws one.
        stop: texts that end the answer.
        stream: send the answer as it is made, as server-sent events.
        response_format: any text, any JSON object, or a document of a JSON schema. It is whole unless the largest
            number of tokens ends it (`finish_reason` "length").
        logprobs: tell how likely each token was.
        top_logprobs: with `logprobs`, so many of the likeliest in its place as well.
        n, best_of, presence_penalty, frequency_penalty, repetition_penalty, repeat_penalty, length_penalty, top_k,
            min_p, min_tokens, ignore_eos, echo, skip_special_tokens, chat_template_kwargs, logit_bias, modalities,
            verbosity, reasoning_effort: as they are without being asked for; nothing else is done.
        tools, functions: none.
        tool_choice, function_call, parallel_tool_calls: without tools they ask for nothing.
        user, safety_identifier, metadata, prompt_cache_key, prompt_cache_retention, service_tier: taken and not used.
        store: nothing is stored.
    """

    model: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None
    messages: Annotated[tuple[Message, ...], Field(min_length=1, max_length=_MOST_MESSAGES)]
    max_tokens: int | None = Field(default=None, ge=1, le=_MOST_TOKENS)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=_MOST_TOKENS)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), le=2**63 - 1)
    stop: Text | Annotated[tuple[Text, ...], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    best_of: Literal[1] | None = None
    presence_penalty: _Zero | None = None
    frequency_penalty: _Zero | None = None
    repetition_penalty: _One | None = None
    repeat_penalty: _One | None = None
    length_penalty: _One | None = None
    min_tokens: Literal[0] | None = None
    ignore_eos: Literal[False] | None = None
    echo: Literal[False] | None = None
    skip_special_tokens: Literal[True] | None = None
    chat_template_kwargs: _NoObject | None = None
    verbosity: Literal["medium"] | None = None
    top_k: Literal[-1, 0] | None = None
    min_p: _Zero | None = None
    logit_bias: _NoObject | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MOST_LOGPROBS)
    modalities: Annotated[tuple[Literal["text"], ...], Field(min_length=1, max_length=1)] | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: Literal["none"] | None = None
    tools: _NoList | None = None
    functions: _NoList | None = None
    tool_choice: Literal["none", "auto"] | None = None
    function_call: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    user: Text | None = None
    safety_identifier: Text | None = None
    metadata: _Labels | None = None
    prompt_cache_key: _Word | None = None
    prompt_cache_retention: _Word | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority"] | None = None
    store: Literal[False] | None = None

    @property
    def max_new_tokens(self) -> int:
        """Tokens of the answer, at most."""
        return self.max_completion_tokens or self.max_tokens or MAX_NEW_TOKENS

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end the answer."""
        return (self.stop,) if isinstance(self.stop, str) else self.stop or ()

    @property
    def schema_given(self) -> Mapping[str, JsonValue] | None:
        """What the answer must be a document of; None for any text."""
        if isinstance(self.response_format, SchemaFormat):
            given = self.response_format.json_schema.definition
            return ANY_OBJECT if given is None else given
        return ANY_OBJECT if isinstance(self.response_format, JsonObject) else None

    @property
    def told_logprobs(self) -> int | None:
        """Likeliest tokens that are told beside each; None where nothing of it is asked for."""
        return self.top_logprobs or 0 if self.logprobs else None

    @property
    def drawn_seed(self) -> int | None:
        """The seed as the runtime takes it; None where one is drawn."""
        return None if self.seed is None or self.seed == _RANDOM_SEED else self.seed % _SEEDS
