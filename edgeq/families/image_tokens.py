"""How many tokens an image becomes, for each family of vision-language models, from the configs alone.

Two sides pay for an image: the encoder for the patches it looks at, the language model for the tokens it is given. The
rules are those of the families' own processors in transformers; the papers do not give them in this detail.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from edgeq.errors import InputError, ModelError
from edgeq.families.modules import VlmDescription
from edgeq.families.tiles import Size, best_resolution, nearest_grid, shrunk, tiled, whole_tokens, without_padding

__all__ = ["ImageCost", "image_cost", "native_size"]

_DEFAULT_NATIVE: Final = (448, 448)
_TILE_ALIGNMENT: Final = 8


@dataclass(frozen=True)
class ImageCost:
    """What one image costs.

    Attributes:
        tokens: places in the language model's context.
        cross_tokens: places that its cross-attention looks at instead; 0 for models without.
        tiles: pictures that the encoder is given.
        sequences, sequence: the encoder's patches: `sequences` runs of `sequence`, in which all attend to all.
        markers: text tokens that the processor writes around the image; not in `tokens`.
    """

    tokens: int
    tiles: int
    sequences: int
    sequence: int
    cross_tokens: int = 0
    markers: int = 0


def native_size(model: VlmDescription) -> Size:
    """The size that the encoder was made for, or 448 x 448 for one that takes any."""
    size = model.vision.get("image_size")
    if isinstance(size, int) and size > 0:
        return size, size
    return (int(size[0]), int(size[1])) if isinstance(size, list | tuple) and len(size) == 2 else _DEFAULT_NATIVE


def image_cost(model: VlmDescription, size: Size) -> ImageCost:
    """What an image of `size` costs in `model`.

    Raises:
        InputError: a side is not positive.
        ModelError: the family's rule is not known, or a number that it needs is missing from the config.
    """
    if min(size) < 1:
        raise InputError(
            f"an image of {size[0]} x {size[1]} pixels has no tokens", expected="height and width from 1 on"
        )
    rule = _RULES.get(model.model_type)
    if rule is None:
        raise ModelError(
            f"how many tokens an image becomes in a {model.model_type} model is not known",
            expected=f"one of {', '.join(sorted(_RULES))}",
        )
    try:
        return rule(model, size)
    except (KeyError, TypeError, ValueError, ZeroDivisionError, AttributeError) as error:
        raise ModelError(f"the configs of {model.name} do not say how many tokens an image becomes: {error}") from error


def _patches(model: VlmDescription) -> int:
    """Patches along one side of a picture of the encoder's own size."""
    patch = model.vision["patch_size"]
    return native_size(model)[0] // int(patch[0] if isinstance(patch, list | tuple) else patch)


def _clip(model: VlmDescription) -> int:
    """1 where the encoder has a class token before its patches."""
    return int(model.vision["model_type"] in ("clip_vision_model", "internvl_vision"))


def _llava(model: VlmDescription, _size: Size) -> ImageCost:
    """Every image at the encoder's size. The default strategy drops the class token."""
    if model.vision["model_type"] == "pixtral":
        raise ValueError("the Pixtral encoder takes images of any size, and its rule is not known")
    sequence = _patches(model) ** 2 + _clip(model)
    dropped = _clip(model) if model.config["vision_feature_select_strategy"] == "default" else 0
    return ImageCost(tokens=sequence - dropped, tiles=1, sequences=1, sequence=sequence)


def _llava_next(model: VlmDescription, size: Size) -> ImageCost:
    """A grid of tiles and a small picture of the whole; padding is cut off, each row ends with a newline token."""
    side, base = _patches(model), native_size(model)[0]
    best = best_resolution(size, model.config["image_grid_pinpoints"])
    rows, columns = without_padding(size, side * (best[0] // base), side * (best[1] // base))
    rows, columns = shrunk(rows, columns, side, model.config.get("vision_aspect_ratio"))
    tiles = (best[0] // base) * (best[1] // base) + 1
    whole = side**2 + (_clip(model) if model.config["vision_feature_select_strategy"] == "full" else 0)
    return ImageCost(tokens=rows * (columns + 1) + whole, tiles=tiles, sequences=tiles, sequence=side**2 + _clip(model))


def _mllama(model: VlmDescription, _size: Size) -> ImageCost:
    """All tiles always, used or not, attended to together; the language model sees them by cross-attention only."""
    tiles, patches = int(model.vision["max_num_tiles"]), _patches(model) ** 2 + 1
    padded = math.ceil(patches / _TILE_ALIGNMENT) * _TILE_ALIGNMENT
    return ImageCost(tokens=1, tiles=tiles, sequences=1, sequence=tiles * padded, cross_tokens=tiles * patches)


def _qwen(model: VlmDescription, size: Size) -> ImageCost:
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


def _idefics(model: VlmDescription, size: Size) -> ImageCost:
    """Scaled to a longest edge, cut into tiles, and a small picture of the whole.

    One token stands for `scale_factor`² patches. Markers: each tile has two, each row ends with a newline, the whole
    has three more.
    """
    edge, tile = _idefics_edges(model)
    rows, columns = tiled(size, edge, tile)
    if not model.preprocessor.get("do_image_splitting", True) or rows * columns == 1:
        rows = columns = 0
    tiles, patches = rows * columns + 1, _patches(model) ** 2
    return ImageCost(
        tokens=tiles * (patches // int(model.config["scale_factor"]) ** 2),
        tiles=tiles,
        sequences=tiles,
        sequence=patches,
        markers=rows * (2 * columns + 1) + 3,
    )


def _idefics_edges(model: VlmDescription) -> Size:
    """The longest edge of the scaled image and the side of a tile; by default four tiles of the encoder's size."""
    tile = (model.preprocessor.get("max_image_size") or {}).get("longest_edge") or native_size(model)[0]
    return (model.preprocessor.get("size") or {}).get("longest_edge") or 4 * tile, tile


def _fixed(key: str) -> Callable[[VlmDescription, Size], ImageCost]:
    """A rule for models that resize every image to one size and state the number of tokens under `key`."""

    def rule(model: VlmDescription, _size: Size) -> ImageCost:
        sequence = _patches(model) ** 2
        return ImageCost(tokens=int(model.config.get(key) or sequence), tiles=1, sequences=1, sequence=sequence)

    return rule


def _internvl(model: VlmDescription, size: Size) -> ImageCost:
    """A grid of up to `max_patches` tiles whose shape is nearest to the image's, and a small picture of the whole."""
    tiles = 1
    if model.preprocessor.get("crop_to_patches", True):
        least, most = int(model.preprocessor.get("min_patches", 1)), int(model.preprocessor.get("max_patches", 12))
        columns, rows = nearest_grid(size, native_size(model)[0], least, most)
        tiles = rows * columns + 1 if rows * columns > 1 else 1
    sequence = _patches(model) ** 2 + _clip(model)
    tokens = tiles * int(model.config["image_seq_length"])
    return ImageCost(tokens=tokens, tiles=tiles, sequences=tiles, sequence=sequence, markers=2)


_RULES: Final[dict[str, Callable[[VlmDescription, Size], ImageCost]]] = {
    "llava": _llava,
    "llava_next": _llava_next,
    "llava_onevision": _llava_next,
    "mllama": _mllama,
    "qwen2_vl": _qwen,
    "qwen2_5_vl": _qwen,
    "qwen3_vl": _qwen,
    "qwen3_vl_moe": _qwen,
    "idefics3": _idefics,
    "smolvlm": _idefics,
    "paligemma": _fixed("image_seq_length"),
    "gemma3": _fixed("mm_tokens_per_image"),
    "internvl": _internvl,
}
