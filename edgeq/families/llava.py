"""LLaVA: an encoder at its own size, two linear layers, a language model that is as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgeq.families.base import Config, Family, ImageCost, ImagePrompt, ModuleNames
from edgeq.families.llama_cpp import LLAVA_FORM
from edgeq.families.pictures import (
    any_size,
    class_token,
    equal_pictures,
    named_states,
    patches_of,
    picture_graph,
    plain,
)
from edgeq.families.tiles import Size

if TYPE_CHECKING:
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


LLAVA: Final = Family(
    name="LLaVA",
    model_types=("llava",),
    modules=ModuleNames("model.vision_tower", ("model.multi_modal_projector",), "model.language_model"),
    image_cost=_cost,
    vision=picture_graph(named_states, refused=any_size),
    prompt=ImagePrompt(plain, layout=equal_pictures(_tokens)),
    loaded_by={"vllm": ("llava",)},
    llama_cpp=LLAVA_FORM,
)
