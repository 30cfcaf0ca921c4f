"""What lies between pixels and connector in each family of vision-language models whose vision half is one graph.

It follows `get_image_features` of transformers 5: which hidden state of the encoder is taken, whether the class token
is dropped, whether patches are merged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from edgeq.errors import ExportError

if TYPE_CHECKING:
    import torch

__all__ = ["EXPORTABLE", "Between", "Encode", "check_exportable"]

Encode = Callable[["torch.Tensor"], "torch.Tensor"]
"""Pixels to what the connector is given."""

Between = Callable[[Any, Any], Encode]
"""From the real encoder and the whole model without bytes."""


def _llava(encoder: Any, whole: Any) -> Encode:
    """The hidden state that the config names, or several side by side; the default strategy drops the class token."""
    import torch

    layer, strategy = whole.config.vision_feature_layer, whole.config.vision_feature_select_strategy
    layers, first = [layer] if isinstance(layer, int) else list(layer), int(strategy == "default")

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        states = encoder(pixels, output_hidden_states=True, return_dict=True).hidden_states
        chosen = [states[index][:, first:] if first else states[index] for index in layers]
        return chosen[0] if len(chosen) == 1 else torch.cat(chosen, dim=-1)

    return encode


def _internvl(encoder: Any, whole: Any) -> Encode:
    """One hidden state, -1 being the encoder's result, whose patches are merged into fewer and wider ones."""
    layer, strategy = whole.config.vision_feature_layer, whole.config.vision_feature_select_strategy
    first, factor, shuffle = int(strategy == "default"), whole.config.downsample_ratio, whole.model.pixel_shuffle

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        made = encoder(pixels, output_hidden_states=True, return_dict=True)
        states = (made.last_hidden_state if layer == -1 else made.hidden_states[layer])[:, first:]
        side = int(states.shape[1] ** 0.5)
        merged: torch.Tensor = shuffle(states.reshape(-1, side, side, states.shape[-1]), scale_factor=factor)
        return merged.flatten(1, 2)

    return encode


def _last(encoder: Any, _whole: Any) -> Encode:
    """What the encoder gives in the end."""

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = encoder(pixels, return_dict=True).last_hidden_state
        return states

    return encode


def _idefics(encoder: Any, _whole: Any) -> Encode:
    """As `_last`, for a whole square of patches: positions are those of the full grid, and nothing is masked.

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


EXPORTABLE: Final[Mapping[str, Between]] = {
    "llava": _llava,
    "paligemma": _last,
    "gemma3": _last,
    "internvl": _internvl,
    "idefics3": _idefics,
    "smolvlm": _idefics,
}
"""The families whose vision half is one graph over pixels of one size -> what lies before their connector."""

_REFUSED: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        ("llava_next", "llava_onevision"), "the features of its tiles are cut and joined anew for each image size"
    ),
    **dict.fromkeys(
        ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"), "its encoder takes images of any size, patch by patch"
    ),
    "mllama": "its encoder takes the tiles of an image together, with their number and arrangement",
}


def check_exportable(model_type: str, vision: Mapping[str, Any]) -> None:
    """Raise ExportError, which names the family, unless its encoder takes pixels of one size and gives features alone.

    Args:
        model_type: from config.json.
        vision: its `vision_config`.
    """
    because = _REFUSED.get(model_type, "how its features are made is not known here")
    if vision.get("model_type") == "pixtral":
        because = "its Pixtral encoder takes images of any size"
    elif model_type in EXPORTABLE:
        return
    raise ExportError(
        f"the vision half of a {model_type} model cannot be exported: {because}",
        expected=f"one of {', '.join(sorted(EXPORTABLE))}",
    )
