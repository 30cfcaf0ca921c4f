"""PaliGemma: a SigLIP at one size, and a prompt whose tokens all see each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgeq.families.base import (
    Family,
    ImageCost,
    ImagePrompt,
    ModuleNames,
    VisionGraph,
    last_state,
    patches_a_side,
    plain,
)
from edgeq.families.tiles import Size

if TYPE_CHECKING:
    from edgeq.families.modules import VlmDescription

__all__ = ["PALIGEMMA"]


def _cost(model: VlmDescription, _size: Size) -> ImageCost:
    """Every image at one size; the config states the tokens, or each patch is one."""
    sequence = patches_a_side(model) ** 2
    tokens = int(model.config.get("image_seq_length") or sequence)
    return ImageCost(tokens=tokens, tiles=1, sequences=1, sequence=sequence)


PALIGEMMA: Final = Family(
    name="PaliGemma",
    model_types=("paligemma",),
    modules=ModuleNames("model.vision_tower", ("model.multi_modal_projector",), "model.language_model"),
    image_cost=_cost,
    vision=VisionGraph(last_state),
    prompt=ImagePrompt(plain, attention="prompt", first_position=1, template=False),
)
