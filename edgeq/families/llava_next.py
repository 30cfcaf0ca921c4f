"""LLaVA-NeXT and LLaVA-OneVision: a grid of tiles and a small picture of the whole, joined again for each image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.families.base import (
    FEATURES,
    PIXELS,
    Arrays,
    Config,
    Family,
    Given,
    ImageCost,
    ImageFeatures,
    ImagePrompt,
    Layout,
    Made,
    ModuleNames,
    VisionGraph,
)
from edgeq.families.features import FeatureArray, concatenated, like
from edgeq.families.llama_cpp import LLAVA_NEXT_FORM
from edgeq.families.pictures import any_size, class_token, named_states, native_size, patches_a_side, patches_of, plain
from edgeq.families.tiles import Size, best_resolution, shrunk, without_padding

if TYPE_CHECKING:
    import torch

    from edgeq.families.modules import VlmDescription

__all__ = ["LLAVA_NEXT"]


def _cost(model: VlmDescription, size: Size) -> ImageCost:
    """Padding is cut off, each row ends with a newline token; OneVision shrinks a large grid."""
    rows, columns = _tile_grid(size, model.config)
    tiles = rows * columns + 1
    tokens = _tokens(size, model.config)
    return ImageCost(tokens=tokens, tiles=tiles, sequences=tiles, sequence=patches_of(model.config))


def _tile_grid(size: Size, config: Config) -> Size:
    """Rows and columns of tiles."""
    best, base = best_resolution(size, config["image_grid_pinpoints"]), native_size(config["vision_config"])[0]
    return best[0] // base, best[1] // base


def _kept(size: Size, config: Config) -> tuple[Size, Size]:
    """Rows and columns of the grid's features without its padding, and what they are shrunk to."""
    side, (rows, columns) = patches_a_side(config["vision_config"]), _tile_grid(size, config)
    kept = without_padding(size, side * rows, side * columns)
    return kept, shrunk(*kept, side, config.get("vision_aspect_ratio"))


def _picture_tokens(config: Config) -> int:
    """Features of one picture."""
    vision = config["vision_config"]
    classes = class_token(vision) if config["vision_feature_select_strategy"] == "full" else 0
    return patches_a_side(vision) ** 2 + classes


def _tokens(size: Size, config: Config) -> int:
    rows, columns = _kept(size, config)[1]
    return rows * (columns + 1) + _picture_tokens(config)


def _layout(given: Given, config: Config) -> Layout:
    height, width = (int(side) for side in np.asarray(given["image_sizes"]).reshape(-1)[-2:])
    size = height, width
    rows, columns = _tile_grid(size, config)
    return Layout(_tokens(size, config), rows * columns + 1, patches_of(config), (rows, columns), size)


def _build(vision: Any, connector: Any, whole: Any) -> torch.nn.Module:
    """Behind the features of each picture stands `image_newline`, so that the graph holds it, too."""
    import torch

    encode = named_states(vision, whole)

    class Joined(torch.nn.Module):
        """Pixels to features, and one row more."""

        def __init__(self) -> None:
            super().__init__()
            self.vision, self.connector = vision, connector
            self.image_newline = torch.nn.Parameter(whole.model.image_newline.detach().clone(), requires_grad=False)

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            """[pictures, 3, H, W] to [pictures, tokens + 1, hidden]."""
            features = self.connector(encode(pixel_values))
            newline = torch.zeros_like(features[:, :1]) + self.image_newline
            return torch.cat((features, newline), dim=1)

    return Joined()


def _join(made: Made, layout: Layout, config: Config) -> ImageFeatures:
    """The picture of the whole, then the tiles as one grid without its padding, a newline behind each row."""
    features, newlines = made[FEATURES][:, :-1], made[FEATURES][:1, -1:]
    (rows, columns), side, hidden = layout.grid, patches_a_side(config["vision_config"]), features.shape[-1]
    grid = features[1:, -(side**2) :].reshape(rows, columns, side, side, hidden)
    grid = grid.swapaxes(1, 2).reshape(rows * side, columns * side, hidden)
    kept, small = _kept(layout.size, config)
    top, left = (rows * side - kept[0]) // 2, (columns * side - kept[1]) // 2
    grid = grid[top : top + kept[0], left : left + kept[1]]
    if small != kept:
        grid = _resized(grid, small)
    lines = concatenated((grid, newlines[np.zeros(len(grid), np.int64)]), axis=1)
    return ImageFeatures(concatenated((features[0], lines.reshape(-1, hidden))))


def _resized(grid: FeatureArray, size: Size) -> FeatureArray:
    """Bilinear, between centres, as torch's `interpolate`.

    Args:
        grid: float32 [rows, columns, hidden].
        size: rows and columns of the result.
    """
    for axis, target in enumerate(size):
        length = grid.shape[axis]
        at = (
            (np.arange(target, dtype=np.float32) + np.float32(0.5)) * np.float32(length / target) - np.float32(0.5)
        ).clip(0)
        first = at.astype(np.int64)
        part = (at - first).reshape([-1 if index == axis else 1 for index in range(3)]).astype(np.float32)
        second = np.minimum(first + 1, length - 1)
        low, high = ((grid[at] if axis == 0 else grid[:, at]) for at in (first, second))
        grid = low * like(1 - part, grid) + high * like(part, grid)
    return grid


def _whole(given: Sequence[Given], _ids: NDArray[np.int64], _token: int) -> Arrays:
    """Pixels of all images, filled up to as many tiles; sizes say how many are real."""
    pixels = [np.asarray(one[PIXELS], np.float32) for one in given]
    most = max(one.shape[1] for one in pixels)
    filled = [np.pad(one, ((0, 0), (0, most - one.shape[1]), (0, 0), (0, 0), (0, 0))) for one in pixels]
    return {
        PIXELS: np.concatenate(filled),
        "image_sizes": np.concatenate([np.asarray(g["image_sizes"]) for g in given]),
    }


def _capped(preprocessor: dict[str, Any], config: dict[str, Any], most: int) -> None:
    """Only grids of at most so many tiles, in both configs: processor and model choose from them."""
    base = native_size(config["vision_config"])[0]
    pinpoints = preprocessor.get("image_grid_pinpoints") or config["image_grid_pinpoints"]
    left = [list(size) for size in pinpoints if (size[0] // base) * (size[1] // base) <= most]
    if not left:
        raise ValueError(f"no grid of at most {most} tiles is among image_grid_pinpoints")
    preprocessor["image_grid_pinpoints"] = config["image_grid_pinpoints"] = left


LLAVA_NEXT: Final = Family(
    name="LLaVA-NeXT",
    model_types=("llava_next", "llava_onevision"),
    modules=ModuleNames("model.vision_tower", ("model.multi_modal_projector",), "model.language_model"),
    image_cost=_cost,
    vision=VisionGraph(_build, join=_join, refused=any_size),
    prompt=ImagePrompt(plain, layout=_layout, whole=_whole),
    caps={"tiles": _capped},
    loaded_by={"vllm": ("llava_next", "llava_onevision")},
    llama_cpp=LLAVA_NEXT_FORM,
)
