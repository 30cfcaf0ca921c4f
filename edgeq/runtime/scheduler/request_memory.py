"""What a request needs in memory, from the same figures as the memory plan: exact where that is, from above elsewhere.

Two kinds of bytes. What a request keeps (its KV cache and its image's features) it keeps until it ends. What passes
(activations of the encoder and of the prompt's reading) is there for a moment, and images and prompts are read one at a
time: of all that run together, only the largest counts. The memory plan adds them up, as for a batch in one pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgeq.bundle.vision_report import VISION
from edgeq.bundle.vlm_settings import LANGUAGE, VlmSettings
from edgeq.errors import InputError, ModelError, first_line
from edgeq.families.base import ImageCost
from edgeq.files import read_json_object
from edgeq.plan.activations import prefill_bytes, vision_bytes
from edgeq.plan.kv import KvCache, kv_cache

__all__ = ["MemoryFigures", "RequestMemory", "read_memory_figures", "request_memory", "reserved_together"]

_HALF: Final = 2


@dataclass(frozen=True)
class RequestMemory:
    """Bytes of one request.

    Attributes:
        kv: keys and values of its tokens, those still to be said included.
        features: what the language model gets of its images.
        prefill: activations while its prompt is read.
        vision: activations while its images are encoded.
    """

    kv: int = 0
    features: int = 0
    prefill: int = 0
    vision: int = 0

    @property
    def kept(self) -> int:
        """What it keeps until it ends."""
        return self.kv + self.features

    @property
    def alone(self) -> int:
        """What it takes with nothing beside it."""
        return reserved_together((self,))


def reserved_together(requests: Iterable[RequestMemory]) -> int:
    """Bytes of requests that run together: all that they keep, and the largest of what passes.

    Encoder and language model count apart: they have allocators of their own, which hold on to what they once took.
    """
    found = tuple(requests)
    prefill = max((needs.prefill for needs in found), default=0)
    vision = max((needs.vision for needs in found), default=0)
    return sum(needs.kept for needs in found) + prefill + vision


@dataclass(frozen=True)
class MemoryFigures:
    """What a bundle's requests are reckoned from.

    Attributes:
        text: the language model's config, with all defaults.
        vision: the encoder's config.
        cache: what a token costs.
        context: most tokens of a request.
        picture_tokens: features of one picture.
        picture_patches: patches of one picture, with a class token in any case.
    """

    text: Mapping[str, Any]
    vision: Mapping[str, Any]
    cache: KvCache
    context: int
    picture_tokens: int
    picture_patches: int


def read_memory_figures(bundle: Path) -> MemoryFigures:
    """The figures of a vision-language bundle, from its JSON files alone.

    A config of the hub may leave out what transformers has a default for; then transformers is asked.

    Raises:
        ArtifactError: the bundle does not say how its halves are joined.
        ModelError: a config is missing, or lacks a number.
    """
    settings = VlmSettings.of(bundle)
    text = read_json_object(bundle / LANGUAGE / "config.json")
    vision = _vision(bundle)
    figures = MemoryFigures(
        text=text,
        vision=vision,
        cache=kv_cache(text),
        context=settings.context,
        picture_tokens=settings.tokens,
        picture_patches=_patches(vision, bundle),
    )
    request_memory(figures, settings.tokens, settings.tokens, 1)  # what is missing is said now, not to the first user
    return figures


def request_memory(figures: MemoryFigures, prompt_tokens: int, image_tokens: int, max_new_tokens: int) -> RequestMemory:
    """Bytes of a request; an upper bound where a part of it is in a cache.

    Args:
        figures: of the bundle.
        prompt_tokens: images and question.
        image_tokens: of these, the images'.
        max_new_tokens: of the answer, which ends at the latest where the context does.

    Raises:
        InputError: a number is negative, or there are more image tokens than tokens.
        ModelError: a config lacks a number.
    """
    if not 0 <= image_tokens <= prompt_tokens or max_new_tokens < 0:
        raise InputError(
            f"{prompt_tokens} tokens, {image_tokens} of them of images, and {max_new_tokens} more make no request"
        )
    length = min(prompt_tokens + max_new_tokens, max(figures.context, prompt_tokens))
    return RequestMemory(
        kv=figures.cache.bytes(length, 0),
        features=_HALF * image_tokens * int(figures.text["hidden_size"]),
        prefill=prefill_bytes(figures.text, prompt_tokens, 0),
        vision=_encoding(figures, image_tokens),
    )


def _encoding(figures: MemoryFigures, image_tokens: int) -> int:
    """Activations of the encoder, for all pictures of a request in one pass."""
    pictures = math.ceil(image_tokens / figures.picture_tokens)
    if not pictures:
        return 0
    patches = figures.picture_patches
    return vision_bytes(figures.vision, ImageCost(image_tokens, pictures, sequences=pictures, sequence=patches))


def _vision(bundle: Path) -> Mapping[str, Any]:
    """The encoder's config, completed by transformers where it lacks a number."""
    raw = read_json_object(bundle / "config.json").get("vision_config")
    if not isinstance(raw, dict):
        raise ModelError(f"{bundle / 'config.json'} has no vision part", expected="vision_config, an object")
    try:
        vision_bytes(raw, ImageCost(tokens=1, tiles=1, sequences=1, sequence=1))
    except ModelError:
        return _completed(bundle)
    return raw


def _completed(bundle: Path) -> Mapping[str, Any]:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(bundle, local_files_only=True, trust_remote_code=False)
        found: dict[str, Any] = config.vision_config.to_dict()
    except Exception as error:  # a config can be wrong in as many ways as there are models
        raise ModelError(
            f"transformers does not understand {bundle / 'config.json'}", causes=(first_line(error),)
        ) from error
    return found


def _patches(vision: Mapping[str, Any], bundle: Path) -> int:
    """Patches of one picture of the size that the graph takes, and a class token, which some encoders have."""
    try:
        _, height, width = read_json_object(bundle / VISION)["image"]
        patch = vision["patch_size"]
        side = int(patch[0] if isinstance(patch, list | tuple) else patch)
        return (int(height) // side) * (int(width) // side) + 1
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelError(f"{bundle / VISION} does not say how large a picture is: {error}") from error
