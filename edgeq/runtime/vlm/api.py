"""What a client asks: images, what was said about them so far, and how the answer is to be chosen and to end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from PIL import Image

from edgeq.errors import InputError
from edgeq.runtime.vlm.model import MAX_NEW_TOKENS

__all__ = [
    "GREEDY",
    "IMAGE",
    "MOST_LOGPROBS",
    "EncodedImage",
    "GenerationRequest",
    "ImagePlace",
    "Role",
    "SamplingParams",
    "Turn",
    "check_turns",
]

Role = Literal["system", "user", "assistant"]

MOST_LOGPROBS: Final = 20
"""Likeliest tokens that are told in the place of each."""

_STOPS: Final = 16
_LONGEST_STOP: Final = 256
_LARGEST_SEED: Final = 1 << 64


@dataclass(frozen=True)
class SamplingParams:
    """How a token is chosen.

    Attributes:
        temperature: logits are divided by it; 0 takes the likeliest token.
        top_p: only the likeliest tokens are drawn from, as few as have this probability together (nucleus sampling,
            Holtzman et al. 2020, arXiv 1904.09751); in (0, 1].
        seed: 0 to 2^64 - 1: the same seed gives the same answer, whatever else is served beside it; None draws one.

    Raises:
        InputError: a number is out of range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        """Check every number."""
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InputError(f"the temperature is {self.temperature}", expected="0 or more")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}", expected="more than 0, and 1 at most")
        if self.seed is not None and not 0 <= self.seed < _LARGEST_SEED:
            raise InputError(f"the seed is {self.seed}", expected="0 to 2^64 - 1")


GREEDY: Final = SamplingParams()
"""The likeliest token each time."""


@dataclass(frozen=True)
class ImagePlace:
    """Where an image stands in a message."""


IMAGE: Final = ImagePlace()
"""The place of an image in a message."""


@dataclass(frozen=True)
class Turn:
    """One message of a conversation.

    Attributes:
        role: who says it.
        parts: what is said, texts and places of images in their order; images in a user's only.
    """

    role: Role
    parts: tuple[str | ImagePlace, ...]

    @classmethod
    def said(cls, role: Role, text: str, *, images: int = 0) -> Turn:
        """A text, with images before it.

        Args:
            role: who says it.
            text: what is said.
            images: how many stand before it.
        """
        return cls(role, (*([IMAGE] * images), text))

    @property
    def images(self) -> int:
        """How many stand in it."""
        return sum(isinstance(part, ImagePlace) for part in self.parts)

    @property
    def texts(self) -> tuple[str, ...]:
        """Those that are said."""
        return tuple(part for part in self.parts if isinstance(part, str))


@dataclass(frozen=True)
class EncodedImage:
    """An image as a file, which need not be decoded if the same file was asked about before.

    Attributes:
        data: the file.
        decode: makes an image in mode RGB of it; what it raises goes to the caller.
    """

    data: bytes = field(repr=False)
    decode: Callable[[bytes], Image.Image] = field(repr=False)

    def decoded(self) -> Image.Image:
        """The image, made again each time."""
        return self.decode(self.data)


@dataclass(frozen=True)
class GenerationRequest:
    """One request.

    Attributes:
        images: each in mode RGB or a file, in the order of their places in the conversation.
        turns: what was said, the last by the user.
        max_new_tokens: of the answer, at most.
        sampling: how its tokens are chosen.
        stop: texts that end it; they are not part of it.
        schema: that it is a document of, from `edgeq.runtime.vlm.constrained.schema.schema_text`; None for any text.
        logprobs: how likely each token was is told, and so many of the likeliest in its place; None for nothing of it.

    Raises:
        InputError: the turns do not fit together or to the images, or a number is out of range.
    """

    images: tuple[Image.Image | EncodedImage, ...] = field(repr=False)
    turns: tuple[Turn, ...]
    max_new_tokens: int = MAX_NEW_TOKENS
    sampling: SamplingParams = GREEDY
    stop: tuple[str, ...] = ()
    schema: str | None = field(repr=False, default=None)
    logprobs: int | None = None

    def __post_init__(self) -> None:
        """Check turns and numbers."""
        if self.logprobs is not None and not 0 <= self.logprobs <= MOST_LOGPROBS:
            raise InputError(f"{self.logprobs} likeliest tokens are asked for", expected=f"0 to {MOST_LOGPROBS}")
        if self.max_new_tokens < 1:
            raise InputError(f"an answer of {self.max_new_tokens} tokens is none", expected="1 or more")
        check_turns(self.turns, len(self.images))
        if len(self.stop) > _STOPS or not all(0 < len(text) <= _LONGEST_STOP for text in self.stop):
            raise InputError(
                "these stop strings cannot be used",
                expected=f"at most {_STOPS}, each of 1 to {_LONGEST_STOP} characters",
            )

    @classmethod
    def about(
        cls,
        image: Image.Image | EncodedImage,
        question: str,
        max_new_tokens: int = MAX_NEW_TOKENS,
        *,
        sampling: SamplingParams = GREEDY,
        stop: tuple[str, ...] = (),
    ) -> GenerationRequest:
        """One question about an image.

        Args:
            image: mode RGB, or its encoded bytes.
            question: without any prompt around it.
            max_new_tokens: after which an answer is cut that has not ended.
            sampling: how tokens are chosen; greedily by default.
            stop: texts that end the answer.
        """
        return cls((image,), (Turn.said("user", question, images=1),), max_new_tokens, sampling, stop)


def check_turns(turns: tuple[Turn, ...], images: int) -> None:
    """Raise InputError where turns do not fit together, or have another number of places than there are images."""
    if not turns or turns[-1].role != "user":
        raise InputError("nothing is asked", expected="a conversation whose last message is the user's")
    for turn in turns:
        if turn.role != "assistant" and not any(text.strip() for text in turn.texts):  # a model may have said nothing
            raise InputError(
                f"a message of the {turn.role} is empty", expected="text in each message of the system and the user"
            )
        if turn.images and turn.role != "user":
            raise InputError(
                f"an image stands in a message of the {turn.role}", expected="images in the user's messages"
            )
    places = sum(turn.images for turn in turns)
    if places != images:
        raise InputError(f"the conversation has {places} places for {images} images", expected="a place for each image")
