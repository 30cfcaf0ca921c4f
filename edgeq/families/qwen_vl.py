"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: an image in its own size, patch by patch, with positions in two dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from edgeq.families.base import Family, ImageCost, ModuleNames, Unsupported
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


_VISION: Final = Unsupported("its encoder takes images of any size, patch by patch")
_PROMPT: Final = Unsupported("its language model counts the positions of an image in two dimensions")
_PROMPT3: Final = Unsupported(f"{_PROMPT.because}, and is given features in several of its layers")

QWEN_VL: Final = Family(
    name="Qwen-VL",
    model_types=("qwen2_vl", "qwen2_5_vl"),
    modules=ModuleNames("model.visual", ("model.visual.merger",), "model.language_model"),
    image_cost=_cost,
    vision=_VISION,
    prompt=_PROMPT,
)

QWEN3_VL: Final = Family(
    name="Qwen3-VL",
    model_types=("qwen3_vl", "qwen3_vl_moe"),
    modules=ModuleNames(
        "model.visual", ("model.visual.merger", "model.visual.deepstack_merger_list"), "model.language_model"
    ),
    image_cost=_cost,
    vision=_VISION,
    prompt=_PROMPT3,
)
