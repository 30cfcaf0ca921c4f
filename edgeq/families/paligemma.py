"""PaliGemma: a SigLIP at one size, and a prompt whose tokens all see each other."""

from __future__ import annotations

from typing import Final

from edgeq.families.base import (
    Family,
    ImagePrompt,
    ModuleNames,
    VisionGraph,
    last_state,
    plain,
    stated_cost,
)

__all__ = ["PALIGEMMA"]


PALIGEMMA: Final = Family(
    name="PaliGemma",
    model_types=("paligemma",),
    modules=ModuleNames("model.vision_tower", ("model.multi_modal_projector",), "model.language_model"),
    image_cost=stated_cost("image_seq_length"),
    vision=VisionGraph(last_state),
    prompt=ImagePrompt(plain, attention="prompt", first_position=1, template=False),
)
