"""What a request needs in memory, from the same figures as the memory plan: exact where that is, from above elsewhere.

Two kinds of bytes. What a request keeps (its KV cache and its image's features) it keeps until it ends. What passes
(activations of the encoder and of the prompt's reading) is there for a moment, and images and prompts are read one at a
time: of all that run together, only the largest counts. The memory plan adds them up, as for a batch in one pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgeq.bundle.vlm_settings import LANGUAGE, VlmSettings
from edgeq.errors import InputError, ModelError
from edgeq.families.base import Config, ImageCost, Layout
from edgeq.families.modules import VlmDescription, load_config
from edgeq.families.pictures import native_size
from edgeq.families.registry import feature_outputs, image_cost
from edgeq.families.structure import Parts
from edgeq.families.tiles import Size
from edgeq.files import read_json_object
from edgeq.model.images.image_processor import read_processor_config
from edgeq.plan.activations import pixel_bytes, prefill_bytes, vision_bytes
from edgeq.plan.kv import KvCache, kv_cache
from edgeq.plan.memory import MemoryPlan
from edgeq.runtime.scheduler.budget import MEMORY

__all__ = ["MemoryFigures", "RequestMemory", "read_memory_figures", "request_memory", "reserved_together"]

_HALF: Final = 2


@dataclass(frozen=True)
class RequestMemory:
    """Bytes of one request.

    Attributes:
        kv: keys and values of its tokens, those still to be said included, and of what cross-attention looks at.
        features: what the language model gets of its images: for their places, behind its first layers, by
            cross-attention.
        prefill: activations while its prompt is read.
        vision: pixels and activations while its images are encoded.
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
        vision: the encoder's config, likewise.
        cache: what a token costs.
        context: most tokens of a request.
        picture: a usual image: the dearest that memory was planned for, or else one of the encoder's own size.
        outputs: of the vision graph, each with as many rows as an image has places.
        states: of an image, that cross-attention looks at; 0 for models without.
        mask: numbers of what is added to the encoder's attention scores.
        widens: a CPU encodes, in float32.
    """

    text: Mapping[str, Any]
    vision: Mapping[str, Any]
    cache: KvCache
    context: int
    picture: Layout
    outputs: int = 1
    states: int = 0
    mask: int = 0
    widens: bool = False


def read_memory_figures(bundle: Path, config: Config | None = None, *, widens: bool = False) -> MemoryFigures:
    """The figures of a vision-language bundle, from its JSON files alone.

    Args:
        bundle: its directory.
        config: of the whole model, with all defaults; None reads the bundle's, and asks transformers where that leaves
            out what transformers has a default for.
        widens: a CPU's backend encodes, in float32.

    Raises:
        ArtifactError: the bundle does not say how its halves are joined.
        ModelError: a config is missing, or lacks a number.
    """
    settings = VlmSettings.of(bundle)
    text = read_json_object(bundle / LANGUAGE / "config.json")
    model = _described(bundle, settings.model_type, text, config)
    image = image_cost(model, _size(bundle, model))
    figures = MemoryFigures(
        text=text,
        vision=model.vision,
        cache=kv_cache(text),
        context=settings.context,
        picture=Layout(image.tokens, image.sequences, image.sequence),
        outputs=feature_outputs(settings.model_type, model.config),
        states=image.cross_tokens,
        mask=image.mask,
        widens=widens,
    )
    request_memory(figures, image.tokens, (figures.picture,), 1)  # what is missing is said now, not to the first user
    return figures


def request_memory(
    figures: MemoryFigures, prompt_tokens: int, layouts: Sequence[Layout], max_new_tokens: int
) -> RequestMemory:
    """Bytes of a request; an upper bound where a part of it is in a cache.

    Its images are encoded one after the other, so that of their activations the largest count, and of what the language
    model is given all.

    Args:
        figures: of the bundle.
        prompt_tokens: images and question.
        layouts: of its images.
        max_new_tokens: of the answer, which ends at the latest where the context does.

    Raises:
        InputError: a number is negative, or there are more image tokens than tokens.
        ModelError: a config lacks a number.
    """
    image_tokens = sum(layout.tokens for layout in layouts)
    if not 0 <= image_tokens <= prompt_tokens or max_new_tokens < 0:
        raise InputError(
            f"{prompt_tokens} tokens, {image_tokens} of them of images, and {max_new_tokens} more make no request"
        )
    length = min(prompt_tokens + max_new_tokens, max(figures.context, prompt_tokens))
    cross = figures.states * len(layouts)
    return RequestMemory(
        kv=figures.cache.slot_bytes(length, cross),
        features=_HALF * sum(_features(figures, layout.tokens) for layout in layouts),
        prefill=prefill_bytes(figures.text, prompt_tokens, cross),
        vision=max((_encoding(figures, layout) for layout in layouts), default=0),
    )


def _features(figures: MemoryFigures, tokens: int) -> int:
    """Numbers that the vision graph gives for an image of so many tokens."""
    return (figures.states or figures.outputs * tokens) * int(figures.text["hidden_size"])


def _encoding(figures: MemoryFigures, layout: Layout) -> int:
    """Pixels and activations of the encoder, for all pictures of an image in one pass."""
    cost = ImageCost(
        layout.tokens, layout.pictures, sequences=layout.pictures, sequence=layout.patches, mask=figures.mask
    )
    given = pixel_bytes(figures.vision, cost, widens=figures.widens)
    return given + vision_bytes(figures.vision, cost, features=_features(figures, layout.tokens), widens=figures.widens)


def _described(bundle: Path, model_type: str, text: Mapping[str, Any], config: Config | None) -> VlmDescription:
    """The bundle's model, as far as the cost of an image depends on it."""
    found = read_json_object(bundle / "config.json") if config is None else config
    if not isinstance(found.get("vision_config"), Mapping):
        raise ModelError(f"{bundle / 'config.json'} has no vision part", expected="vision_config, an object")
    model = VlmDescription(
        name=str(bundle),
        model_type=model_type,
        config=found,
        text=text,
        vision=found["vision_config"],
        preprocessor=read_processor_config(bundle),
        components=(),
        parts=Parts("", (), "", None),
        tied_head=False,
        stored={},
    )
    try:
        vision_bytes(model.vision, image_cost(model, native_size(model.vision)), features=0)
    except ModelError:
        if config is not None:
            raise
        return _described(bundle, model_type, text, load_config(bundle))
    return model


def _size(bundle: Path, model: VlmDescription) -> Size:
    """Height and width of the usual image."""
    planned = bundle / MEMORY
    return MemoryPlan.load(planned).request.image_size if planned.is_file() else native_size(model.vision)
