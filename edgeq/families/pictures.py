"""What families have in common whose encoder takes pictures of one size, each by itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgeq.families.base import (
    PIXELS,
    UNCUT,
    Between,
    Config,
    Encode,
    Given,
    Grid,
    ImageCost,
    ImageRule,
    Layout,
    VisionGraph,
)
from edgeq.families.tiles import Size

if TYPE_CHECKING:
    import torch

    from edgeq.families.modules import VlmDescription

__all__ = [
    "any_size",
    "class_token",
    "equal_pictures",
    "last_state",
    "named_states",
    "native_size",
    "one_picture",
    "patches_a_side",
    "patches_of",
    "picture_graph",
    "plain",
]

_DEFAULT_NATIVE: Final = (448, 448)


def native_size(vision: Mapping[str, Any]) -> Size:
    """The size that an encoder with this `vision_config` was made for, or 448 x 448 for one that takes any."""
    size = vision.get("image_size")
    if isinstance(size, int) and size > 0:
        return size, size
    return (int(size[0]), int(size[1])) if isinstance(size, list | tuple) and len(size) == 2 else _DEFAULT_NATIVE


def patches_a_side(vision: Mapping[str, Any]) -> int:
    """Patches along one side of a picture of the encoder's own size."""
    patch = vision["patch_size"]
    return native_size(vision)[0] // int(patch[0] if isinstance(patch, list | tuple) else patch)


def class_token(vision: Mapping[str, Any]) -> int:
    """1 where an encoder with this `vision_config` has a class token before its patches."""
    return int(vision["model_type"] in ("clip_vision_model", "internvl_vision"))


def patches_of(config: Config) -> int:
    """Patches of a picture of the encoder's own size, which attend to each other, its class token included."""
    vision = config["vision_config"]
    return patches_a_side(vision) ** 2 + class_token(vision)


def any_size(vision: Mapping[str, Any]) -> str | None:
    """Why an encoder that several families may have is not exported, from its `vision_config`; None for others."""
    return "its Pixtral encoder takes images of any size" if vision.get("model_type") == "pixtral" else None


def one_picture(tokens: Callable[[Config], int], *, markers: int = 0) -> ImageRule:
    """The rule of a family that brings every image to one size.

    Args:
        tokens: of that picture.
        markers: text tokens around it.
    """

    def cost(model: VlmDescription, _size: Size) -> ImageCost:
        patches = patches_of(model.config)
        return ImageCost(tokens=tokens(model.config), tiles=1, sequences=1, sequence=patches, markers=markers)

    return cost


def equal_pictures(
    tokens: Callable[[Config], int], grid: Callable[[Given], Grid] = lambda _given: UNCUT
) -> Callable[[Given, Config], Layout]:
    """The layout of a family whose pictures all become as many tokens, one behind the other.

    Args:
        tokens: of one picture.
        grid: rows and columns that the image processor cut the image into.
    """

    def layout(given: Given, config: Config) -> Layout:
        pictures = math.prod(np.shape(given[PIXELS])[:-3])
        return Layout(pictures * tokens(config), pictures, patches_of(config), grid(given))

    return layout


def plain(token: str, layout: Layout) -> str:
    """Places of a family that writes the image's tokens, and nothing around them."""
    return token * layout.tokens


def named_states(encoder: Any, whole: Any) -> Encode:
    """Between pixels and connector of a LLaVA: the hidden state that the config names, or several side by side.

    The default strategy drops the class token.
    """
    import torch

    layer, strategy = whole.config.vision_feature_layer, whole.config.vision_feature_select_strategy
    layers, first = [layer] if isinstance(layer, int) else list(layer), int(strategy == "default")

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        states = encoder(pixels, output_hidden_states=True, return_dict=True).hidden_states
        chosen = [states[index][:, first:] if first else states[index] for index in layers]
        return chosen[0] if len(chosen) == 1 else torch.cat(chosen, dim=-1)

    return encode


def last_state(encoder: Any, _whole: Any) -> Encode:
    """Between pixels and connector of a family that takes what the encoder gives in the end."""

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = encoder(pixels, return_dict=True).last_hidden_state
        return states

    return encode


def picture_graph(between: Between, **fields: Any) -> VisionGraph:
    """The graph of a family whose pictures go through encoder and connector each by itself.

    Args:
        between: what is before the connector: which hidden state of the encoder is taken, whether the class token is
            dropped, whether patches are merged. As `get_image_features` of transformers does it.
        fields: of the `VisionGraph`.
    """

    def build(vision: Any, connector: Any, whole: Any) -> torch.nn.Module:
        import torch

        encode = between(vision, whole)

        class Joined(torch.nn.Module):
            """Pixels to what the language model is given in the places of the image."""

            def __init__(self) -> None:
                super().__init__()
                self.vision, self.connector = vision, connector

            def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
                """[pictures, 3, H, W] to [pictures, tokens, hidden]."""
                features: torch.Tensor = self.connector(encode(pixel_values))
                return features

        return Joined()

    return VisionGraph(build, **fields)
