"""Mistral 3: a Pixtral encoder for an image in its own size, squares of patches merged into tokens, a break a row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ExportError, InputError
from edgeq.families.base import (
    PIXELS,
    Arrays,
    Config,
    Family,
    Given,
    GraphInput,
    ImageCost,
    ImagePrompt,
    Layout,
    ModuleNames,
    VisionGraph,
)
from edgeq.families.tiles import Size

if TYPE_CHECKING:
    import torch

    from edgeq.families.modules import VlmDescription

__all__ = ["MISTRAL3"]

_FREE: Final = {0: "patches"}
_POSITIONS: Final = "positions"
_BREAK: Final = "[IMG_BREAK]"
_END: Final = "[IMG_END]"
# Of the image processor, where its config is silent.
_LONGEST_EDGE: Final = 1024


def _patch(config: Config) -> int:
    """Edge of a patch, in pixels."""
    return int(config["vision_config"]["patch_size"])


def _token(config: Config) -> int:
    """Edge of a token, in pixels."""
    return _patch(config) * int(config["spatial_merge_size"])


def _longest_edge(preprocessor: Mapping[str, Any]) -> int:
    """Of the scaled image, before its sides are rounded up to whole tokens."""
    return int((preprocessor.get("size") or {"longest_edge": _LONGEST_EDGE})["longest_edge"])


def _cost(model: VlmDescription, size: Size) -> ImageCost:
    """The image in its own size, shrunk to the longest edge where it is larger, rounded up to whole tokens.

    Markers: a break behind each row but the last, and the end.
    """
    longest, token = _longest_edge(model.preprocessor), _token(model.config)
    ratio = max(max(size) / longest, 1.0)
    rows, columns = (math.ceil(math.floor(side / ratio) / token) for side in size)
    if min(rows, columns) < 1:
        raise InputError(
            f"an image of {size[0]} x {size[1]} pixels is too narrow for {model.name}",
            expected=f"a shorter side of at least a pixel where the longer one is shrunk to {longest}",
        )
    patches = rows * columns * int(model.config["spatial_merge_size"]) ** 2
    return ImageCost(tokens=rows * columns, tiles=1, sequences=1, sequence=patches, markers=rows)


def _layout(given: Given, config: Config) -> Layout:
    """The grid is that of the merged patches, each of which is a token."""
    height, width = np.shape(given[PIXELS])[-2:]
    rows, columns = height // _token(config), width // _token(config)
    return Layout(rows * columns, 1, rows * columns * int(config["spatial_merge_size"]) ** 2, (rows, columns))


def _places(token: str, layout: Layout) -> str:
    """A row of tokens for each row of merged patches, with a break between two rows and the end behind the last."""
    columns = layout.grid[1] or layout.tokens
    rows = (token * min(columns, layout.tokens - first) for first in range(0, layout.tokens, columns))
    return _BREAK.join(rows) + _END


def _whole(given: Sequence[Given], _ids: NDArray[np.int64], _token: int) -> Arrays:
    """Pixels of all images, filled up to one height and width; sizes say what is real."""
    pixels = [np.asarray(one[PIXELS], np.float32) for one in given]
    height, width = (max(one.shape[axis] for one in pixels) for axis in (2, 3))
    filled = [np.pad(one, ((0, 0), (0, 0), (0, height - one.shape[2]), (0, width - one.shape[3]))) for one in pixels]
    return {
        PIXELS: np.concatenate(filled),
        "image_sizes": np.concatenate([np.asarray(one["image_sizes"]) for one in given]),
    }


def _feeds(given: Given, config: Config) -> Arrays:
    """Patches float32 [patches, 3 * patch²], and the row and column of each, int64 [patches, 2]."""
    pixels, patch, merge = np.asarray(given[PIXELS], np.float32)[0], _patch(config), int(config["spatial_merge_size"])
    places = np.indices((pixels.shape[1] // patch, pixels.shape[2] // patch))
    return {PIXELS: _squares(pixels, patch, merge), _POSITIONS: _squares(places, 1, merge).astype(np.int64)}


def _squares(values: NDArray[Any], edge: int, merge: int) -> NDArray[Any]:
    """Squares of a plane, those that become one token behind each other.

    Args:
        values: [channels, height, width].
        edge: of a square.
        merge: squares along one side of a token.

    Returns:
        [squares, channels * edge²].
    """
    channels, height, width = values.shape
    token = edge * merge
    cut = values.reshape(channels, height // token, merge, edge, width // token, merge, edge)
    return np.ascontiguousarray(cut.transpose(1, 4, 2, 5, 0, 3, 6).reshape(-1, channels * edge**2))


def _build(vision: Any, connector: Any, whole: Any) -> torch.nn.Module:
    """All patches attend to all: they are those of one image. Their order does not matter, for each has its place."""
    import torch

    vision.forward = _encode(vision, _layers(whole.config))
    connector.patch_merger.forward = _merge(connector.patch_merger)

    class Joined(torch.nn.Module):
        """Patches to what the language model is given in the places of the image."""

        def __init__(self) -> None:
            super().__init__()
            self.vision, self.connector = vision, connector

        def forward(self, pixel_values: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
            """[patches, 3 * patch²] and [patches, 2] to [tokens, hidden]."""
            features: torch.Tensor = self.connector(self.vision(pixel_values, positions), None)
            return features

    return Joined()


def _layers(config: Any) -> int:
    """Layers of the encoder up to the hidden state that the config names."""
    layer = config.vision_feature_layer
    named: list[int] = [layer] if isinstance(layer, int) else list(layer)
    states = range(config.vision_config.num_hidden_layers + 1)
    if len(named) != 1 or not -len(states) <= named[0] < len(states):
        raise ExportError(
            f"the connector of a Mistral 3 model cannot take features of the layers {named}",
            expected=f"one layer of {len(states) - 1} as vision_feature_layer",
        )
    return states[named[0]]


def _encode(vision: Any, layers: int) -> Any:
    """The encoder's own layers, given where each patch stands."""
    from torch.nn.functional import linear

    def forward(pixel_values: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        # The convolution that embeds patches sees each of them once.
        states = vision.ln_pre(linear(pixel_values, vision.patch_conv.weight.flatten(1)))[None]
        turns = vision.patch_positional_embedding(states, positions)
        for layer in list(vision.transformer.layers)[:layers]:
            states = layer(states, None, position_embeddings=turns)
        found: torch.Tensor = states[0]
        return found

    return forward


def _merge(merger: Any) -> Any:
    """The patches of a token side by side, channel by channel; they stand behind each other."""

    def forward(features: torch.Tensor, _sizes: None) -> torch.Tensor:
        hidden, unit = features.shape[-1], merger.spatial_merge_size**2
        side = features.reshape(-1, unit, hidden).transpose(1, 2).reshape(-1, hidden * unit)
        merged: torch.Tensor = merger.merging_layer(side)
        return merged

    return forward


def _capped(preprocessor: dict[str, Any], config: dict[str, Any], most: int) -> None:
    """The longest edge in whole tokens, so that a square image has no more than `most`, rounded up as it is."""
    token = _token(config)
    edge = math.isqrt(most) // token * token
    if edge < token:
        raise ValueError(f"one token has {token**2}")
    preprocessor["size"] = {"longest_edge": min(edge, _longest_edge(preprocessor))}


MISTRAL3: Final = Family(
    name="Mistral 3",
    model_types=("mistral3",),
    modules=ModuleNames("model.vision_tower", ("model.multi_modal_projector",), "model.language_model"),
    image_cost=_cost,
    vision=VisionGraph(
        _build,
        (GraphInput(PIXELS, _FREE), GraphInput(_POSITIONS, _FREE, "int64")),
        feeds=_feeds,
        pictures=False,
    ),
    prompt=ImagePrompt(
        _places,
        layout=_layout,
        # PixtralProcessor rounds to whole tokens, the image processor by itself to whole patches.
        processing=lambda config: {"patch_size": _token(config)},
        whole=_whole,
    ),
    caps={"pixels": _capped},
    loaded_by={"vllm": ("mistral3",)},
)
