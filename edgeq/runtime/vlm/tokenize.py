"""From what a client asks to what the model reads: token ids, and images with the digests of their pixels."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from PIL import Image

from edgeq.errors import ImageError, InputError, ModelError, first_line
from edgeq.families.base import Layout
from edgeq.runtime.chat_template import chat_text
from edgeq.runtime.scheduler.errors import ContextError, RefusedImageError
from edgeq.runtime.vlm.api import EncodedImage, GenerationRequest, ImagePlace, SamplingParams, Turn
from edgeq.runtime.vlm.constrained.grammar import Follower
from edgeq.runtime.vlm.feature_cache import image_digest
from edgeq.runtime.vlm.prompt import ProcessedImage, Prompt, Prompter, longest_token, render

__all__ = ["PromptBuilder", "RequestImage", "TokenizedRequest"]

_REMEMBERED: Final = 1024
_SHORT: Final = 1024
"""Characters of a conversation whose prompt is remembered: the same is asked about many images."""

_SMALL: Final = 3 << 20
"""Bytes of an image, as a file or as pixels, that may wait as it is."""

_PREPARED: Final = 64 << 20
"""Bytes of a request's images as the encoder gets them, that may wait; the first image may have more."""

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class RequestImage:
    """An image that is asked about.

    Attributes:
        digest: of its pixels.
        layout: what of it the prompt depends on.
        pixels: as the encoder gets it; None for a small image that was seen before: its features are probably kept.
        image: in mode RGB or a file, where `pixels` is None. A large one is never kept: many may wait, and none is in
            the budget.
    """

    digest: bytes
    layout: Layout
    pixels: ProcessedImage | None = field(repr=False)
    image: Image.Image | EncodedImage | None = field(repr=False, default=None)

    def opened(self) -> Image.Image:
        """The image where `pixels` is None, in mode RGB."""
        assert self.image is not None, "one of the two is there"
        return _decoded(self.image)


@dataclass(frozen=True)
class TokenizedRequest:
    """A request that can be read.

    Attributes:
        prompt: what is read.
        images: in their order.
        requested_tokens: tokens of the answer at most, by the request.
        limit: the same by the context as well.
        sampling: how they are chosen.
        stop: texts that end the answer.
        follower: of the JSON schema that the answer is held to; None for any text.
        logprobs: as `GenerationRequest.logprobs`.
    """

    prompt: Prompt = field(repr=False)
    images: tuple[RequestImage, ...]
    requested_tokens: int
    limit: int
    sampling: SamplingParams
    stop: tuple[str, ...]
    follower: Follower | None = field(repr=False, default=None)
    logprobs: int | None = None


class PromptBuilder:
    """Writes prompts; from any thread.

    The layout of an image is remembered by its digest, and the digest by that of the file, so that a small image that
    was seen before is neither decoded nor goes through the image processor again. So is the prompt of a short
    conversation, for any images of the same layouts.

    Args:
        prompter: of the bundle.
        context: tokens of a request, at most.
    """

    def __init__(self, prompter: Prompter, context: int) -> None:
        self._prompter, self._context = prompter, context
        self._longest = longest_token(prompter.tokenizer)
        self._layouts: OrderedDict[bytes, Layout] = OrderedDict()
        self._digests: OrderedDict[bytes, bytes] = OrderedDict()
        self._prompts: OrderedDict[tuple[tuple[Turn, ...], tuple[Layout, ...]], Prompt] = OrderedDict()
        self._lock = threading.Lock()  # of what is remembered; held for microseconds
        # One in Rust is read by many threads at once, once its truncation is off; one in Python may keep state.
        prompter.tokenizer("", verbose=False)
        in_rust = getattr(prompter.tokenizer, "is_fast", False)
        self._tokenizing: AbstractContextManager[Any] = nullcontext() if in_rust else threading.Lock()

    def question(self, ask: GenerationRequest) -> TokenizedRequest:
        """What the model reads for a request.

        Raises:
            InputError: the chat template does not take the conversation, or there are more images than the model takes.
            RefusedImageError: the model does not take one of the images.
            ContextError: the conversation leaves no room for an answer (413).
            SchemaError: the answer cannot be held to the JSON schema.
            ModelError: the chat template or the tokenizer does not keep the places of the images.
        """
        self._prompter.check_images(len(ask.images))
        self._check_length(ask.turns)
        images = _bounded([self._taken(number, image) for number, image in enumerate(ask.images)], ask.images)
        layouts = tuple(image.layout for image in images)
        return self._request(ask, images, self._remembered(ask.turns, layouts) or self._written(ask.turns, layouts))

    def known_question(self, ask: GenerationRequest) -> TokenizedRequest | None:
        """The same where all of it was seen before, so that nothing is decoded and nothing tokenized; else None.

        It waits for no other thread: an answer that is held to a JSON schema is not asked for here.

        Raises:
            ContextError: as `question`.
        """
        if ask.schema is not None:
            return None
        images: list[RequestImage] = []
        for image in ask.images:
            known = self._known(_file_digest(image), image) if isinstance(image, EncodedImage) else None
            if known is None:
                return None
            images.append(known)
        prompt = self._remembered(ask.turns, tuple(image.layout for image in images))
        return None if prompt is None else self._request(ask, tuple(images), prompt)

    def _request(self, ask: GenerationRequest, images: tuple[RequestImage, ...], prompt: Prompt) -> TokenizedRequest:
        """All of it; raises ContextError and SchemaError."""
        room = self._context - len(prompt.ids)
        if room < 1:
            raise ContextError(len(prompt.ids), prompt.image_tokens, self._context)
        return TokenizedRequest(
            prompt=prompt,
            images=images,
            requested_tokens=ask.max_new_tokens,
            limit=min(ask.max_new_tokens, room),
            sampling=ask.sampling,
            stop=ask.stop,
            follower=None if ask.schema is None else self._prompter.grammars.follow(ask.schema),
            logprobs=ask.logprobs,
        )

    def _check_length(self, turns: Sequence[Turn]) -> None:
        """Raise ContextError where the texts alone do not fit, by their characters: before anything is tokenized."""
        characters = sum(len(text) for turn in turns for text in turn.texts)
        least = -(-characters // self._longest)
        if least >= self._context:
            raise ContextError(least, 0, self._context, at_least=True)

    def _taken(self, number: int, image: Image.Image | EncodedImage) -> RequestImage:
        """The picture, with its layout; raises RefusedImageError."""
        try:
            return self._look(image)
        except ImageError as error:
            raise RefusedImageError(number, error) from error

    def _look(self, image: Image.Image | EncodedImage) -> RequestImage:
        """The picture, with its layout."""
        file = _file_digest(image) if isinstance(image, EncodedImage) else None
        known = self._known(file, image) if file is not None else None
        if known is not None:
            return known
        decoded = _decoded(image)
        digest = image_digest(decoded)
        if file is not None:
            self._remember(self._digests, file, digest)
        known = self._known(digest, decoded)
        if known is not None:
            return known
        pixels = self._prompter.pixels(decoded)
        self._remember(self._layouts, digest, pixels.layout)
        return RequestImage(digest, pixels.layout, replace(pixels, given={}))

    def _known(self, digest: bytes, image: Image.Image | EncodedImage) -> RequestImage | None:
        """The same for a small image that was seen before; `digest` is of its pixels, or of its file."""
        size = len(image.data) if isinstance(image, EncodedImage) else 3 * image.width * image.height
        if size > _SMALL:
            return None
        with self._lock:
            digest = self._digests.get(digest, digest)
            layout = self._layouts.get(digest)
            if layout is None:
                return None
            self._layouts.move_to_end(digest)
        return RequestImage(digest, layout, None, image)

    def _remembered(self, turns: tuple[Turn, ...], layouts: tuple[Layout, ...]) -> Prompt | None:
        with self._lock:
            known = self._prompts.get((turns, layouts))
            if known is not None:
                self._prompts.move_to_end((turns, layouts))
            return known

    def _written(self, turns: tuple[Turn, ...], layouts: tuple[Layout, ...]) -> Prompt:
        with self._tokenizing:
            prompt = _written(self._prompter, turns, layouts)
        prompt.ids.flags.writeable = prompt.positions.flags.writeable = False
        if sum(len(text) for turn in turns for text in turn.texts) <= _SHORT:
            self._remember(self._prompts, (turns, layouts), prompt)
        return prompt

    def _remember(self, kept: OrderedDict[_Key, _Value], key: _Key, value: _Value) -> None:
        with self._lock:
            kept[key] = value
            while len(kept) > _REMEMBERED:
                kept.popitem(last=False)


def _bounded(images: Sequence[RequestImage], given: Sequence[Image.Image | EncodedImage]) -> tuple[RequestImage, ...]:
    """The same, of which the first have their pixels: many requests may wait, and none is in the budget.

    The others are prepared again when their request is read.
    """
    found, room = [], _PREPARED
    for number, (image, source) in enumerate(zip(images, given, strict=True)):
        size = 0 if image.pixels is None else image.pixels.nbytes
        kept = number == 0 or size <= room
        room -= size if kept else 0
        found.append(image if kept else RequestImage(image.digest, image.layout, None, source))
    return tuple(found)


def _file_digest(image: EncodedImage) -> bytes:
    return hashlib.sha256(image.data).digest()


def _decoded(image: Image.Image | EncodedImage) -> Image.Image:
    return image.decoded() if isinstance(image, EncodedImage) else image


def _written(prompter: Prompter, turns: tuple[Turn, ...], layouts: tuple[Layout, ...]) -> Prompt:
    turns = tuple(_plain(prompter, turn) for turn in turns)
    if not prompter.image_prompt.template:
        content = _content(turns[0])
        if len(turns) != 1 or [part["type"] for part in content] != ["image", "text"]:
            raise InputError(
                f"a {prompter.settings.model_type} model answers one question about one image",
                expected="one message, with an image before its text",
            )
        text = render(prompter.tokenizer, prompter.image_prompt, prompter.marker, content[1]["text"])
        return prompter.written(text, layouts)
    text = _rendered(prompter.tokenizer, turns)
    if text.count(prompter.marker) != len(layouts):
        raise ModelError(
            f"the chat template writes {prompter.marker} {text.count(prompter.marker)} times for {len(layouts)} images",
            expected="once for each image",
        )
    return prompter.written(text, layouts, tuple(_beginnings(prompter.tokenizer, turns, text)))


def _plain(prompter: Prompter, turn: Turn) -> Turn:
    """The same, with texts that no token stands in which steers the model."""
    parts = (part if isinstance(part, ImagePlace) else prompter.controls.plain(part) for part in turn.parts)
    return Turn(turn.role, tuple(parts))


def _beginnings(tokenizer: Any, turns: tuple[Turn, ...], text: str) -> Iterator[str]:
    """What was asked before, as the prompts that were read for it, where the whole one begins so."""
    for end, turn in enumerate(turns[:-1], start=1):
        if turn.role == "user" and text.startswith(earlier := _rendered(tokenizer, turns[:end])):
            yield earlier


def _rendered(tokenizer: Any, turns: tuple[Turn, ...]) -> str:
    messages = [{"role": turn.role, "content": _content(turn)} for turn in turns]
    try:
        text = chat_text(tokenizer, messages)
    except Exception as error:  # templates raise for orders of roles that they do not know, or are damaged
        raise InputError(
            "the conversation cannot be put into the model's chat template",
            expected="user and assistant in turns; a system message first, where the model knows one",
            causes=(first_line(error),),
        ) from error
    return text


def _content(turn: Turn) -> list[dict[str, str]]:
    """Parts as chat templates take them; texts that follow each other are one."""
    found: list[dict[str, str]] = []
    for part in turn.parts:
        if isinstance(part, ImagePlace):
            found.append({"type": "image"})
        elif found and found[-1]["type"] == "text":
            found[-1]["text"] += f"\n{part}"
        else:
            found.append({"type": "text", "text": part})
    return found
