"""Llama 3.2 Vision: up to four tiles together, which the language model sees by cross-attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.families.base import (
    PIXELS,
    Arrays,
    Config,
    Family,
    Given,
    ImageCost,
    ImagePrompt,
    Layout,
    ModuleNames,
    Unsupported,
    patches_a_side,
    plain,
)
from edgeq.families.tiles import Size

if TYPE_CHECKING:
    from edgeq.families.modules import VlmDescription

__all__ = ["MLLAMA"]

_TILE_ALIGNMENT: Final = 8


def _cost(model: VlmDescription, _size: Size) -> ImageCost:
    """All tiles always, used or not, attended to together; the language model sees them by cross-attention only."""
    tiles, patches, sequence = int(model.vision["max_num_tiles"]), _patches(model.config), _sequence(model.config)
    cross = tiles * patches
    return ImageCost(tokens=1, tiles=tiles, sequences=1, sequence=sequence, cross_tokens=cross, mask=sequence**2)


def _patches(config: Config) -> int:
    """Of one tile, its class token included."""
    return patches_a_side(config["vision_config"]) ** 2 + 1


def _sequence(config: Config) -> int:
    """Patches that attend to each other: of all tiles, each filled up to a multiple of eight."""
    return (
        int(config["vision_config"]["max_num_tiles"]) * math.ceil(_patches(config) / _TILE_ALIGNMENT) * _TILE_ALIGNMENT
    )


def _layout(given: Given, config: Config) -> Layout:
    """One place; the grid says how many tiles are used."""
    used = int(np.asarray(given["aspect_ratio_mask"]).sum())
    return Layout(1, 1, _sequence(config), (1, used))


def _seen(ids: NDArray[np.int64], token: int, layouts: Sequence[Layout], config: Config) -> NDArray[np.bool_]:
    """From the image token on, all tokens look at the tiles that are used."""
    patches, tiles = _patches(config), int(config["vision_config"]["max_num_tiles"])
    states = np.arange(tiles * patches) < (layouts[0].grid[1] * patches if layouts else 0)
    behind = np.cumsum(ids == token) > 0
    return behind[:, None] & states[None]


def _whole(given: Sequence[Given], ids: NDArray[np.int64], token: int) -> Arrays:
    """One image, and which of its tiles each token looks at, int64 [1, n, 1, tiles], as MllamaProcessor has it."""
    (one,) = given
    used = np.asarray(one["aspect_ratio_mask"]).reshape(1, 1, 1, -1)
    behind = (np.cumsum(ids == token) > 0)[None, :, None, None]
    names = (PIXELS, "aspect_ratio_ids", "aspect_ratio_mask")
    return {name: np.asarray(one[name]) for name in names} | {
        "cross_attention_mask": (behind & (used > 0)).astype(np.int64)
    }


def _capped(preprocessor: dict[str, Any], _config: dict[str, Any], most: int) -> None:
    """The encoder is given as many tiles as ever; fewer of them are used."""
    preprocessor["max_image_tiles"] = min(int(preprocessor.get("max_image_tiles", most)), most)


MLLAMA: Final = Family(
    name="Llama 3.2 Vision",
    model_types=("mllama",),
    modules=ModuleNames("model.vision_model", ("model.multi_modal_projector",), "model.language_model"),
    image_cost=_cost,
    vision=Unsupported("its encoder takes the tiles of an image together, with their number and arrangement"),
    prompt=ImagePrompt(plain, layout=_layout, whole=_whole, cross=_seen, most_images=1),
    language_classes={"mllama_text_model": "MllamaForCausalLM"},
)
