"""From what a client asks to what the model reads: token ids, and the image with the digest of its pixels."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeq.errors import InputError, ModelError, first_line
from edgeq.families.registry import runnable
from edgeq.runtime.vlm.api import EncodedImage, GenerationRequest, SamplingParams, Turn
from edgeq.runtime.vlm.feature_cache import image_digest
from edgeq.runtime.vlm.prompt import ImagePixels, Layout, Prompter

__all__ = ["PromptBuilder", "RequestImage", "TokenizedRequest"]

_REMEMBERED: Final = 1024
_SHORT: Final = 1024
"""Characters of a conversation whose prompt is remembered: the same is asked about many images."""

_SMALL: Final = 3 << 20
"""Bytes of an image, as a file or as pixels, that may wait as it is."""

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class RequestImage:
    """An image that is asked about.

    Attributes:
        digest: of its pixels.
        pixels: as the encoder gets it; None for a small image that was seen before: its features are probably kept.
        image: in mode RGB or a file, where `pixels` is None. A large one is never kept: many may wait, and none is in
            the budget.
    """

    digest: bytes
    pixels: ImagePixels | None = field(repr=False)
    image: Image.Image | EncodedImage | None = field(repr=False, default=None)

    def opened(self) -> Image.Image:
        """The image where `pixels` is None, in mode RGB."""
        assert self.image is not None, "one of the two is there"
        return _decoded(self.image)


@dataclass(frozen=True)
class TokenizedRequest:
    """A request that can be read.

    Attributes:
        ids: the prompt, int64 [n].
        picture: the image; None without one.
        image_tokens: how many of `ids` are the image's.
        requested_tokens: tokens of the answer at most, by the request.
        limit: the same by the context as well.
        sampling: how they are chosen.
        stop: texts that end the answer.
    """

    ids: NDArray[np.int64] = field(repr=False)
    picture: RequestImage | None
    image_tokens: int
    requested_tokens: int
    limit: int
    sampling: SamplingParams
    stop: tuple[str, ...]


class PromptBuilder:
    """Writes prompts; from any thread.

    The layout of an image (in how many pictures it was cut) is remembered by its digest, and the digest by that of the
    file, so that a small image that was seen before is neither decoded nor goes through the image processor again. So
    is the prompt of a short conversation, for any image of the same layout.

    Args:
        prompter: of the bundle.
        context: tokens of a request, at most.
    """

    def __init__(self, prompter: Prompter, context: int) -> None:
        self._prompter, self._context = prompter, context
        self._layouts: OrderedDict[bytes, Layout] = OrderedDict()
        self._digests: OrderedDict[bytes, bytes] = OrderedDict()
        self._prompts: OrderedDict[tuple[tuple[Turn, ...], Layout | None], NDArray[np.int64]] = OrderedDict()
        self._lock = threading.Lock()

    def question(self, ask: GenerationRequest) -> TokenizedRequest:
        """What the model reads for a request.

        Raises:
            InputError: a message has the image token in it, or the conversation leaves no room for an answer.
            ModelError: the chat template or the tokenizer does not keep the image's places.
        """
        picture, layout = self._look(ask.image) if ask.image is not None else (None, None)
        ids = self._ids(ask.turns, layout)
        room = self._context - len(ids)
        if room < 1:
            raise InputError(
                f"the conversation is too long: it takes {len(ids):,} tokens, and the context is {self._context:,}, "
                "answer included",
                next_step="ask in fewer words, or leave early messages out",
            )
        places = int((ids == self._prompter.settings.image_token_id).sum())
        requested_tokens = ask.max_new_tokens
        return TokenizedRequest(
            ids, picture, places, requested_tokens, min(requested_tokens, room), ask.sampling, ask.stop
        )

    def _look(self, image: Image.Image | EncodedImage) -> tuple[RequestImage, Layout]:
        """The picture, and its layout."""
        file = hashlib.sha256(image.data).digest() if isinstance(image, EncodedImage) else None
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
        return RequestImage(digest, pixels), pixels.layout

    def _known(self, digest: bytes, image: Image.Image | EncodedImage) -> tuple[RequestImage, Layout] | None:
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
        return RequestImage(digest, None, image), layout

    def _ids(self, turns: tuple[Turn, ...], layout: Layout | None) -> NDArray[np.int64]:
        with self._lock:  # a tokenizer is not to be used from two threads at once
            known = self._prompts.get((turns, layout))
            if known is not None:
                self._prompts.move_to_end((turns, layout))
                return known
            ids = _prompt(self._prompter, turns, layout)
        ids.flags.writeable = False
        if sum(len(turn.text) for turn in turns) <= _SHORT:
            self._remember(self._prompts, (turns, layout), ids)
        return ids

    def _remember(self, kept: OrderedDict[_Key, _Value], key: _Key, value: _Value) -> None:
        with self._lock:
            kept[key] = value
            while len(kept) > _REMEMBERED:
                kept.popitem(last=False)


def _decoded(image: Image.Image | EncodedImage) -> Image.Image:
    return image.decoded() if isinstance(image, EncodedImage) else image


def _prompt(prompter: Prompter, turns: tuple[Turn, ...], layout: Layout | None) -> NDArray[np.int64]:
    """Token ids, int64 [n]."""
    if layout is not None and len(turns) == 1:
        return prompter.ids(turns[0].text, layout)
    settings = prompter.settings
    token = settings.image_token
    if any(token in turn.text for turn in turns):
        raise InputError(f"a message has {token} in it, which stands for an image", next_step="leave it out")
    if not runnable(settings.model_type).template:
        raise InputError(
            f"a {settings.model_type} model answers one question about one image",
            expected="one message, with an image",
        )
    text = _rendered(prompter.tokenizer, turns)
    if text.count(token) != (layout is not None):
        raise ModelError(f"the chat template writes {token} {text.count(token)} times", expected="once for each image")
    return prompter.written(text, layout)


def _rendered(tokenizer: Any, turns: tuple[Turn, ...]) -> str:
    messages = [
        {
            "role": turn.role,
            "content": [*([{"type": "image"}] if turn.image else []), {"type": "text", "text": turn.text}],
        }
        for turn in turns
    ]
    try:
        text: str = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    except Exception as error:  # templates raise for orders of roles that they do not know, or are damaged
        raise InputError(
            "the conversation cannot be put into the model's chat template",
            expected="user and assistant in turns; a system message first, where the model knows one",
            causes=(first_line(error),),
        ) from error
    return text
