"""Gemma 3: a SigLIP at one size, whose patches the connector averages into fewer tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgeq.families.base import (
    Family,
    ImageCost,
    ModuleNames,
    Unsupported,
    VisionGraph,
    last_state,
    patches_a_side,
)
from edgeq.families.tiles import Size

if TYPE_CHECKING:
    from edgeq.families.modules import VlmDescription

__all__ = ["GEMMA3"]


def _cost(model: VlmDescription, _size: Size) -> ImageCost:
    """Every image at one size; the config states the tokens, or each patch is one."""
    sequence = patches_a_side(model) ** 2
    tokens = int(model.config.get("mm_tokens_per_image") or sequence)
    return ImageCost(tokens=tokens, tiles=1, sequences=1, sequence=sequence)


GEMMA3: Final = Family(
    name="Gemma 3",
    model_types=("gemma3",),
    modules=ModuleNames("model.vision_tower", ("model.multi_modal_projector",), "model.language_model"),
    image_cost=_cost,
    vision=VisionGraph(last_state),
    prompt=Unsupported("in its language model the tokens of an image see each other, and those of the question do not"),
)
