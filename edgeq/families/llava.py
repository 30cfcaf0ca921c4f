"""LLaVA: an encoder at its own size, two linear layers, a language model that is as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgeq.families.base import (
    Config,
    Encode,
    Family,
    ImageCost,
    ImagePrompt,
    ModuleNames,
    any_size,
    class_token,
    equal_pictures,
    patches_of,
    pictures,
    plain,
)
from edgeq.families.tiles import Size

if TYPE_CHECKING:
    import torch

    from edgeq.families.modules import VlmDescription

__all__ = ["LLAVA"]


def _cost(model: VlmDescription, _size: Size) -> ImageCost:
    """Every image at the encoder's size. The default strategy drops the class token."""
    if any_size(model.vision):
        raise ValueError("the Pixtral encoder takes images of any size, and its rule is not known")
    return ImageCost(tokens=_tokens(model.config), tiles=1, sequences=1, sequence=patches_of(model.config))


def _tokens(config: Config) -> int:
    dropped = class_token(config["vision_config"]) if config["vision_feature_select_strategy"] == "default" else 0
    return patches_of(config) - dropped


def _between(encoder: Any, whole: Any) -> Encode:
    """The hidden state that the config names, or several side by side; the default strategy drops the class token."""
    import torch

    layer, strategy = whole.config.vision_feature_layer, whole.config.vision_feature_select_strategy
    layers, first = [layer] if isinstance(layer, int) else list(layer), int(strategy == "default")

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        states = encoder(pixels, output_hidden_states=True, return_dict=True).hidden_states
        chosen = [states[index][:, first:] if first else states[index] for index in layers]
        return chosen[0] if len(chosen) == 1 else torch.cat(chosen, dim=-1)

    return encode


LLAVA: Final = Family(
    name="LLaVA",
    model_types=("llava",),
    modules=ModuleNames("model.vision_tower", ("model.multi_modal_projector",), "model.language_model"),
    image_cost=_cost,
    vision=pictures(_between, refused=any_size),
    prompt=ImagePrompt(plain, layout=equal_pictures(_tokens)),
)
