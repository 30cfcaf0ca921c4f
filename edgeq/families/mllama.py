"""Llama 3.2 Vision: up to four tiles together, which the language model sees by cross-attention."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.families.base import (
    FEATURES,
    MASKED_SCORE,
    PIXELS,
    Arrays,
    Config,
    Family,
    Given,
    GraphInput,
    ImageCost,
    ImageFeatures,
    ImagePrompt,
    Layout,
    Made,
    ModuleNames,
    Unsupported,
    VisionGraph,
)
from edgeq.families.pictures import patches_a_side, plain
from edgeq.families.tiles import Size

if TYPE_CHECKING:
    import torch

    from edgeq.families.modules import VlmDescription

__all__ = ["MLLAMA"]

_TILE_ALIGNMENT: Final = 8
_IDS: Final = GraphInput("aspect_ratio_ids", {0: "batch"}, "int64")
_MASK: Final = GraphInput("aspect_ratio_mask", {0: "batch"}, "int64")
_INPUTS: Final = (PIXELS, _IDS.name, _MASK.name)


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
    used = int(np.asarray(given[_MASK.name]).sum())
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
    used = np.asarray(one[_MASK.name]).reshape(1, 1, 1, -1)
    behind = (np.cumsum(ids == token) > 0)[None, :, None, None]
    return {name: np.asarray(one[name]) for name in _INPUTS} | {
        "cross_attention_mask": (behind & (used > 0)).astype(np.int64)
    }


def _feeds(given: Given, _config: Config) -> Arrays:
    """All tiles of an image, how they lie, and which of them are used; images along the first axis."""
    pixels = np.asarray(given[PIXELS], np.float32)
    mask = np.asarray(given[_MASK.name], np.int64)
    return {
        PIXELS: np.ascontiguousarray(pixels.reshape(-1, *pixels.shape[-4:])),
        _IDS.name: np.asarray(given[_IDS.name], np.int64).reshape(-1),
        _MASK.name: np.ascontiguousarray(mask.reshape(-1, mask.shape[-1])),
    }


def _join(made: Made, _layout: Layout, _config: Config) -> ImageFeatures:
    """Nothing for the prompt; for cross-attention the states of all tiles, of which the prompt sees those in use."""
    states = made[FEATURES].reshape(-1, made[FEATURES].shape[-1])
    return ImageFeatures(states[:0], cross=states)


def _never(mask: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """What is added to the scores: filling does not look at filling. Real patches do, as the model was trained.

    Args:
        mask: 1 for the tiles in use, [images, tiles].
        real: 1 for the patches of a tile, 0 for what fills it up, [patches].
    """
    filling = (1 - mask.float()[..., None] * real).flatten(1)
    return filling[:, None, :, None] * filling[:, None, None, :] * MASKED_SCORE


def _encoder(vision: Any) -> torch.nn.Module:
    """An encoder with the layers of transformers' own, whose mask holds numbers that FP16 does not."""
    import torch
    from torch.nn.functional import pad

    config, tiles, patches, hidden = vision.config, vision.max_num_tiles, vision.num_patches, vision.hidden_size
    filling = -patches % _TILE_ALIGNMENT
    filled, numbers = patches + filling, hidden * (1 + len(vision.intermediate_layers_indices))
    real = pad(torch.ones(patches), (0, filling))

    class Encoder(torch.nn.Module):
        """Tiles to patches, each with its states behind several layers."""

        def __init__(self) -> None:
            super().__init__()
            for name, child in vision.named_children():
                setattr(self, name, child)
            self.class_embedding = vision.class_embedding

        def forward(self, pixels: torch.Tensor, ratio: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            """[images, tiles, 3, side, side], [images] and [images, tiles] to [images, tiles * patches, numbers]."""
            pictures = pixels.reshape(-1, config.num_channels, vision.image_size, vision.image_size)
            states = vision.patch_embedding(pictures).flatten(2).transpose(1, 2)
            states = vision.pre_tile_positional_embedding(states.reshape(-1, tiles, patches - 1, hidden), ratio)
            first = self.class_embedding.expand_as(states[:, :, :1])
            states = vision.gated_positional_embedding(torch.cat((first, states), dim=2), ratio)
            states = pad(vision.layernorm_pre(states), (0, 0, 0, filling)).reshape(-1, tiles * filled, hidden)
            never = _never(mask, real)
            local = vision.transformer(states, attention_mask=never)
            states = vision.layernorm_post(local.last_hidden_state).reshape(-1, tiles, filled, hidden)
            states = vision.post_tile_positional_embedding(states, ratio).reshape(-1, tiles * filled, hidden)
            states = vision.global_transformer(states, attention_mask=never).last_hidden_state
            chosen = [local.hidden_states[index] for index in vision.intermediate_layers_indices]
            joined = torch.cat((states, torch.stack(chosen, dim=-1).flatten(2)), dim=-1)
            return joined.reshape(-1, tiles, filled, numbers)[:, :, :patches].reshape(-1, tiles * patches, numbers)

    return Encoder()


def _build(vision: Any, connector: Any, _whole: Any) -> torch.nn.Module:
    import torch

    class Joined(torch.nn.Module):
        """Tiles to what cross-attention looks at."""

        def __init__(self) -> None:
            super().__init__()
            self.vision, self.connector = _encoder(vision), connector

        def forward(self, pixels: torch.Tensor, ratio: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            """The graph's inputs to [images, tiles * patches, hidden]."""
            made: torch.Tensor = self.connector(self.vision(pixels, ratio, mask))
            return made

    return Joined()


def _whole_features(model: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The cross-attention states; the whole model has no `get_image_features`."""
    states = model.model.vision_model(**{name: inputs[name] for name in _INPUTS}).last_hidden_state
    found: torch.Tensor = model.model.multi_modal_projector(states)
    return found.reshape(-1, found.shape[-1])


MLLAMA: Final = Family(
    name="Llama 3.2 Vision",
    model_types=("mllama",),
    modules=ModuleNames("model.vision_model", ("model.multi_modal_projector",), "model.language_model"),
    image_cost=_cost,
    vision=VisionGraph(_build, (GraphInput(PIXELS, {0: "batch"}), _IDS, _MASK), feeds=_feeds, join=_join),
    prompt=ImagePrompt(plain, layout=_layout, whole=_whole, whole_features=_whole_features, cross=_seen, most_images=1),
    language_classes={"mllama_text_model": "MllamaForCausalLM"},
    not_loaded_by={"vllm": "vLLM has left it out since 0.10.2"},
    llama_cpp=Unsupported("llama.cpp has no language model that looks at images by cross-attention"),
)
