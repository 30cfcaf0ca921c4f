"""LLaVA-NeXT and LLaVA-OneVision: a grid of tiles and a small picture of the whole, joined again for each image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgeq.families.base import (
    Family,
    ImageCost,
    ModuleNames,
    Unsupported,
    class_token,
    native_size,
    patches_a_side,
)
from edgeq.families.tiles import Size, best_resolution, shrunk, without_padding

if TYPE_CHECKING:
    from edgeq.families.modules import VlmDescription

__all__ = ["LLAVA_NEXT"]


def _cost(model: VlmDescription, size: Size) -> ImageCost:
    """Padding is cut off, each row ends with a newline token; OneVision shrinks a large grid."""
    side, base = patches_a_side(model), native_size(model)[0]
    best = best_resolution(size, model.config["image_grid_pinpoints"])
    rows, columns = without_padding(size, side * (best[0] // base), side * (best[1] // base))
    rows, columns = shrunk(rows, columns, side, model.config.get("vision_aspect_ratio"))
    tiles = (best[0] // base) * (best[1] // base) + 1
    whole = side**2 + (class_token(model) if model.config["vision_feature_select_strategy"] == "full" else 0)
    sequence = side**2 + class_token(model)
    return ImageCost(tokens=rows * (columns + 1) + whole, tiles=tiles, sequences=tiles, sequence=sequence)


LLAVA_NEXT: Final = Family(
    name="LLaVA-NeXT",
    model_types=("llava_next", "llava_onevision"),
    modules=ModuleNames("model.vision_tower", ("model.multi_modal_projector",), "model.language_model"),
    image_cost=_cost,
    vision=Unsupported("the features of its tiles are cut and joined anew for each image size"),
    prompt=Unsupported("an image becomes as many tokens as its size makes, and joining its tiles is not done here"),
)
