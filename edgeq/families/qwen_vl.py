"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: an image in its own size, patch by patch, with positions in two dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    plain,
)
from edgeq.families.tiles import Size, whole_tokens

if TYPE_CHECKING:
    from edgeq.families.modules import VlmDescription

__all__ = ["QWEN3_VL", "QWEN_VL"]


def _cost(model: VlmDescription, size: Size) -> ImageCost:
    """The image in its own size, rounded to whole tokens of merged patches and kept within a number of pixels."""
    patch, merge = int(model.vision["patch_size"]), int(model.vision["spatial_merge_size"])
    height, width = whole_tokens(size, patch * merge, *_pixel_range(model.preprocessor))
    patches = (height // patch) * (width // patch)
    return ImageCost(tokens=patches // merge**2, tiles=1, sequences=1, sequence=patches, markers=2)


def _pixel_range(preprocessor: Mapping[str, Any]) -> tuple[int, int]:
    """Fewest and most pixels; as transformers has them where the preprocessor's config is silent."""
    size = preprocessor.get("size") or {}
    least = preprocessor.get("min_pixels") or size.get("shortest_edge") or 56 * 56
    most = preprocessor.get("max_pixels") or size.get("longest_edge") or 28 * 28 * 1280
    return int(least), int(most)


def _layout(given: Given, config: Config) -> Layout:
    """The grid is that of the merged patches, each of which is a token."""
    _, rows, columns = (int(side) for side in np.asarray(given["image_grid_thw"]).reshape(-1))
    merge = int(config["vision_config"]["spatial_merge_size"])
    grid = rows // merge, columns // merge
    return Layout(grid[0] * grid[1], 1, rows * columns, grid)


def _positions(ids: NDArray[np.int64], token: int, layouts: Sequence[Layout]) -> NDArray[np.int64]:
    """Time, row and column of each token, int64 [3, n] (M-RoPE: Wang et al. 2024, arXiv 2409.12191, section 2.1).

    Text counts up on all three. An image at position a has the time a, and its rows and columns count from a; what
    follows stands behind the larger of both.
    """
    found, start, end = np.empty((3, len(ids)), np.int64), 0, 0
    images, marks = iter(layouts), np.flatnonzero(ids == token)
    while end < len(ids):
        ahead = marks[marks >= end]
        if len(ahead) and ahead[0] == end:
            rows, columns = next(images).grid
            count = rows * columns
            at = np.arange(count)
            found[:, end : end + count] = start + np.stack((np.zeros_like(at), at // columns, at % columns))
            start, end = start + max(rows, columns), end + count
        else:
            count = (int(ahead[0]) if len(ahead) else len(ids)) - end
            found[:, end : end + count] = start + np.arange(count)
            start, end = start + count, end + count
    return found


def _whole(given: Sequence[Given], ids: NDArray[np.int64], token: int) -> Arrays:
    """Patches of all images, their grids, and the token types: without, positions would silently have one dimension."""
    names = (PIXELS, "image_grid_thw")
    joined = {name: np.concatenate([np.asarray(one[name]) for one in given]) for name in names}
    return joined | {"mm_token_type_ids": (ids == token).astype(np.int64)[None]}


def _capped(preprocessor: dict[str, Any], _config: dict[str, Any], most: int) -> None:
    """In every spelling that image processors read; the least gives way where it is more."""
    least = min(_pixel_range(preprocessor)[0], most)
    preprocessor["size"] = {"shortest_edge": least, "longest_edge": most}
    for name in ("min_pixels", "max_pixels"):
        preprocessor.pop(name, None)


_VISION: Final = Unsupported("its encoder takes images of any size, patch by patch")
_PROMPT: Final = ImagePrompt(plain, layout=_layout, positions=_positions, whole=_whole)

QWEN_VL: Final = Family(
    name="Qwen-VL",
    model_types=("qwen2_vl", "qwen2_5_vl"),
    modules=ModuleNames("model.visual", ("model.visual.merger",), "model.language_model"),
    image_cost=_cost,
    vision=_VISION,
    prompt=_PROMPT,
    language_classes={"qwen2_vl_text": "Qwen2VLTextModel", "qwen2_5_vl_text": "Qwen2_5_VLTextModel"},
    caps={"pixels": _capped},
)

QWEN3_VL: Final = Family(
    name="Qwen3-VL",
    model_types=("qwen3_vl", "qwen3_vl_moe"),
    modules=ModuleNames(
        "model.visual", ("model.visual.merger", "model.visual.deepstack_merger_list"), "model.language_model"
    ),
    image_cost=_cost,
    vision=_VISION,
    prompt=_PROMPT,
    language_classes={"qwen3_vl_text": "Qwen3VLTextModel", "qwen3_vl_moe_text": "Qwen3VLMoeTextModel"},
    caps={"pixels": _capped},
)
