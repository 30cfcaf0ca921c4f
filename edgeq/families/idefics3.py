"""Idefics3 and SmolVLM: tiles of the encoder's size, each written with its place, and a small picture of the whole."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.families.base import (
    PIXELS,
    UNCUT,
    Arrays,
    Config,
    Encode,
    Family,
    Given,
    Grid,
    ImageCost,
    ImagePrompt,
    Layout,
    ModuleNames,
)
from edgeq.families.pictures import equal_pictures, native_size, patches_a_side, patches_of, picture_graph
from edgeq.families.tiles import Size, tiled

if TYPE_CHECKING:
    import torch

    from edgeq.families.modules import VlmDescription

__all__ = ["IDEFICS3"]


def _cost(model: VlmDescription, size: Size) -> ImageCost:
    """Scaled to a longest edge, cut into tiles, and a small picture of the whole.

    One token stands for `scale_factor`² patches. Markers: each tile has two, each row ends with a newline, the whole
    has three more.
    """
    edge, tile = _edges(model.preprocessor, model.vision)
    rows, columns = tiled(size, edge, tile)
    if not model.preprocessor.get("do_image_splitting", True) or rows * columns == 1:
        rows = columns = 0
    tiles = rows * columns + 1
    return ImageCost(
        tokens=tiles * _tokens(model.config),
        tiles=tiles,
        sequences=tiles,
        sequence=patches_of(model.config),
        markers=rows * (2 * columns + 1) + 3,
    )


def _tokens(config: Config) -> int:
    return patches_a_side(config["vision_config"]) ** 2 // int(config["scale_factor"]) ** 2


def _edges(preprocessor: Mapping[str, Any], vision: Mapping[str, Any]) -> Size:
    """The longest edge of the scaled image and the side of a tile; by default four tiles of the encoder's size."""
    tile = (preprocessor.get("max_image_size") or {}).get("longest_edge") or native_size(vision)[0]
    return (preprocessor.get("size") or {}).get("longest_edge") or 4 * tile, tile


def _between(encoder: Any, _whole: Any) -> Encode:
    """The encoder's result for a whole square of patches: positions are those of the full grid, nothing is masked.

    The encoder's own `forward` works positions and mask out from a mask of each picture, in float32 on a grid of
    fractions. As constants the positions are what torch computes, whatever the backend's rounding.
    """
    places = _positions(encoder)

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        patches = encoder.embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
        embedded = patches + encoder.embeddings.position_embedding(places)
        states: torch.Tensor = encoder.encoder(inputs_embeds=embedded, attention_mask=None).last_hidden_state
        normal: torch.Tensor = encoder.post_layernorm(states)
        return normal

    encoder.forward = forward  # called through the encoder, nodes are named after it
    encode: Encode = encoder
    return encode


def _positions(encoder: Any) -> torch.Tensor:
    """The position indices [1, patches] that an Idefics3 encoder looks up for a picture of its own size."""
    import torch

    asked: list[torch.Tensor] = []
    table = encoder.embeddings.position_embedding
    hook = table.register_forward_pre_hook(lambda _table, indices: asked.append(indices[0]))
    side, patch = encoder.config.image_size, encoder.config.patch_size
    whole = torch.ones(1, side // patch, side // patch, dtype=torch.bool)
    try:
        with torch.inference_mode():
            encoder.embeddings(pixel_values=torch.zeros(1, 3, side, side), patch_attention_mask=whole)
    finally:
        hook.remove()
    return asked[0].clone()


def _places(token: str, layout: Layout) -> str:
    """Each tile with its place, a new line after each row, and the whole picture last."""
    frame, picture, grid = "<fake_token_around_image>", token * (layout.tokens // layout.pictures), layout.grid
    rows = [
        "".join(f"{frame}<row_{row}_col_{column}>{picture}" for column in range(1, grid[1] + 1)) + "\n"
        for row in range(1, grid[0] + 1)
    ]
    return "".join(rows) + ("\n" if rows else "") + f"{frame}<global-img>{picture}{frame}"


def _grid(given: Given) -> Grid:
    """As the image processor says it, when it is told to return it."""
    if "rows" not in given or "cols" not in given:
        return UNCUT
    return int(np.asarray(given["rows"]).flat[0]), int(np.asarray(given["cols"]).flat[0])


def _whole(given: Sequence[Given], _ids: NDArray[np.int64], _token: int) -> Arrays:
    """All pictures of a prompt behind each other, [1, pictures, 3, height, width]."""
    return {PIXELS: np.concatenate([np.asarray(one[PIXELS], np.float32) for one in given], axis=1)}


def _capped(preprocessor: dict[str, Any], config: dict[str, Any], most: int) -> None:
    """The longest edge in whole tiles, so that a square image has no more than `most`; the small picture is beside."""
    edge, tile = _edges(preprocessor, config["vision_config"])
    preprocessor["size"] = {"longest_edge": min(edge, math.isqrt(most) * tile)}


IDEFICS3: Final = Family(
    name="Idefics3",
    model_types=("idefics3", "smolvlm"),
    modules=ModuleNames("model.vision_model", ("model.connector",), "model.text_model"),
    image_cost=_cost,
    vision=picture_graph(_between),
    prompt=ImagePrompt(
        _places,
        layout=equal_pictures(_tokens, _grid),
        processing=lambda _config: {"return_row_col_info": True},
        whole=_whole,
    ),
    caps={"tiles": _capped},
    loaded_by={"vllm": ("idefics3", "smolvlm")},
)
