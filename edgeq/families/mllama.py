"""Llama 3.2 Vision: four tiles always, which the language model sees by cross-attention."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from edgeq.families.base import Family, ImageCost, ModuleNames, Unsupported, patches_a_side
from edgeq.families.tiles import Size

if TYPE_CHECKING:
    from edgeq.families.modules import VlmDescription

__all__ = ["MLLAMA"]

_TILE_ALIGNMENT: Final = 8


def _cost(model: VlmDescription, _size: Size) -> ImageCost:
    """All tiles always, used or not, attended to together; the language model sees them by cross-attention only."""
    tiles, patches = int(model.vision["max_num_tiles"]), patches_a_side(model) ** 2 + 1
    padded = math.ceil(patches / _TILE_ALIGNMENT) * _TILE_ALIGNMENT
    return ImageCost(tokens=1, tiles=tiles, sequences=1, sequence=tiles * padded, cross_tokens=tiles * patches)


MLLAMA: Final = Family(
    name="Llama 3.2 Vision",
    model_types=("mllama",),
    modules=ModuleNames("model.vision_model", ("model.multi_modal_projector",), "model.language_model"),
    image_cost=_cost,
    vision=Unsupported("its encoder takes the tiles of an image together, with their number and arrangement"),
    prompt=Unsupported("its language model looks at the image by cross-attention, in layers that need their own masks"),
    language_classes={"mllama_text_model": "MllamaForCausalLM"},
)
