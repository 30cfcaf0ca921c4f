"""Gemma 3: a SigLIP at one size, whose patches the connector averages into fewer tokens."""

from __future__ import annotations

from typing import Final

from edgeq.families.base import (
    Family,
    ModuleNames,
    Unsupported,
    VisionGraph,
    last_state,
    stated_cost,
)

__all__ = ["GEMMA3"]


GEMMA3: Final = Family(
    name="Gemma 3",
    model_types=("gemma3",),
    modules=ModuleNames("model.vision_tower", ("model.multi_modal_projector",), "model.language_model"),
    image_cost=stated_cost("mm_tokens_per_image"),
    vision=VisionGraph(last_state),
    prompt=Unsupported("in its language model the tokens of an image see each other, and those of the question do not"),
)
