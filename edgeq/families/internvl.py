"""InternVL: a grid of tiles whose shape is nearest to the image's, and patches merged into fewer and wider ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeq.families.base import (
    Encode,
    Family,
    Grid,
    ImageCost,
    ImagePrompt,
    ModuleNames,
    VisionGraph,
    class_token,
    native_size,
    patches_a_side,
)
from edgeq.families.tiles import Size, nearest_grid

if TYPE_CHECKING:
    import torch

    from edgeq.families.modules import VlmDescription

__all__ = ["INTERNVL"]


def _cost(model: VlmDescription, size: Size) -> ImageCost:
    """A grid of up to `max_patches` tiles whose shape is nearest to the image's, and a small picture of the whole."""
    tiles = 1
    if model.preprocessor.get("crop_to_patches", True):
        least, most = int(model.preprocessor.get("min_patches", 1)), int(model.preprocessor.get("max_patches", 12))
        columns, rows = nearest_grid(size, native_size(model)[0], least, most)
        tiles = rows * columns + 1 if rows * columns > 1 else 1
    sequence = patches_a_side(model) ** 2 + class_token(model)
    tokens = tiles * int(model.config["image_seq_length"])
    return ImageCost(tokens=tokens, tiles=tiles, sequences=tiles, sequence=sequence, markers=2)


def _between(encoder: Any, whole: Any) -> Encode:
    """One hidden state, -1 being the encoder's result, whose patches are merged into fewer and wider ones."""
    layer, strategy = whole.config.vision_feature_layer, whole.config.vision_feature_select_strategy
    first, factor, shuffle = int(strategy == "default"), whole.config.downsample_ratio, whole.model.pixel_shuffle

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        made = encoder(pixels, output_hidden_states=True, return_dict=True)
        states = (made.last_hidden_state if layer == -1 else made.hidden_states[layer])[:, first:]
        side = int(states.shape[1] ** 0.5)
        merged: torch.Tensor = shuffle(states.reshape(-1, side, side, states.shape[-1]), scale_factor=factor)
        return merged.flatten(1, 2)

    return encode


def _places(token: str, tokens: int, pictures: int, _grid: Grid) -> str:
    """All tiles in one frame."""
    return f"<img>{token * (tokens * pictures)}</img>"


INTERNVL: Final = Family(
    name="InternVL",
    model_types=("internvl",),
    modules=ModuleNames("model.vision_tower", ("model.multi_modal_projector",), "model.language_model"),
    image_cost=_cost,
    vision=VisionGraph(_between),
    prompt=ImagePrompt(_places, processing={"crop_to_patches": True}),
)
