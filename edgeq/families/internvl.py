"""InternVL: a grid of tiles whose shape is nearest to the image's, and patches merged into fewer and wider ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from edgeq.families.base import Config, Encode, Family, ImageCost, ImagePrompt, Layout, ModuleNames
from edgeq.families.pictures import equal_pictures, native_size, patches_of, picture_graph
from edgeq.families.tiles import Size, nearest_grid

if TYPE_CHECKING:
    import torch

    from edgeq.families.modules import VlmDescription

__all__ = ["INTERNVL"]


def _cost(model: VlmDescription, size: Size) -> ImageCost:
    """A grid of up to `max_patches` tiles whose shape is nearest to the image's, and a small picture of the whole.

    What the preprocessor's config says of `crop_to_patches` is not asked: InternVLProcessor sets it.
    """
    columns, rows = nearest_grid(size, native_size(model.vision)[0], *_tile_range(model.preprocessor))
    tiles = rows * columns + 1 if rows * columns > 1 else 1
    tokens = tiles * _tokens(model.config)
    return ImageCost(tokens=tokens, tiles=tiles, sequences=tiles, sequence=patches_of(model.config), markers=2)


def _tokens(config: Config) -> int:
    return int(config["image_seq_length"])


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


def _places(token: str, layout: Layout) -> str:
    """All tiles in one frame."""
    return f"<img>{token * layout.tokens}</img>"


def _capped(preprocessor: dict[str, Any], _config: dict[str, Any], most: int) -> None:
    """Tiles of the grid; the small picture of the whole is beside them."""
    least, present = _tile_range(preprocessor)
    preprocessor["max_patches"] = min(present, most)
    preprocessor["min_patches"] = min(least, most)


def _tile_range(preprocessor: Mapping[str, Any]) -> tuple[int, int]:
    """Fewest and most tiles; as transformers has them where the preprocessor's config is silent."""
    return int(preprocessor.get("min_patches", 1)), int(preprocessor.get("max_patches", 12))


INTERNVL: Final = Family(
    name="InternVL",
    model_types=("internvl",),
    modules=ModuleNames("model.vision_tower", ("model.multi_modal_projector",), "model.language_model"),
    image_cost=_cost,
    vision=picture_graph(_between),
    prompt=ImagePrompt(_places, layout=equal_pictures(_tokens), processing=lambda _config: {"crop_to_patches": True}),
    caps={"tiles": _capped},
    loaded_by={"vllm": ("internvl",), "edge-llm": ("internvl",)},
)
