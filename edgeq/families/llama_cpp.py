"""How llama.cpp has the encoders and connectors of some families: names, settings, and what it does otherwise.

Read in its source (tools/mtmd: clip.cpp, mtmd.cpp, mtmd-image.cpp, models/llava.cpp, models/qwen2vl.cpp; conversion) of
the release that decision 0055 names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from edgeq.families.base import Config, LlamaCppForm, Piece

if TYPE_CHECKING:
    import torch

__all__ = ["LLAVA_FORM", "LLAVA_NEXT_FORM", "QWEN2_5_VL_FORM", "QWEN2_VL_FORM"]

_LLAMAS: Final = {"llama": "llama", "mistral": "llama"}
_BYTE: Final = 255
_NEAR: Final = 1e-6
_TOWERS: Final = ("clip_vision_model", "siglip_vision_model")
_ACTIVATIONS: Final[Mapping[str, Mapping[str, bool]]] = {
    "quick_gelu": {},
    "gelu": {"clip.use_gelu": True},
    "gelu_pytorch_tanh": {"clip.use_gelu": True},
    "silu": {"clip.use_silu": True},
}
"""Of an encoder; llama.cpp has the first where its file says nothing."""

_SHIFTED: Final = (
    "llama.cpp 0c1e570 shifts the patches of CLIP by one, and answers lose by it: take one with the change that its "
    "issue 25814 is about, and ask edgeq judge"
)
_NO_EPSILON: Final = "llama.cpp 0c1e570 does not read the epsilon of Qwen2-VL's norms, and computes with 0"
_WINDOW: Final = 112
"""Pixels along a side of a window of Qwen2.5-VL's encoder, in llama.cpp's code."""


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _common(config: Config, preprocessor: Config) -> dict[str, Any]:
    """Keys that every encoder has."""
    normalized = preprocessor["do_normalize"]
    return {
        "clip.has_vision_encoder": True,
        "clip.vision.projection_dim": int(config["text_config"]["hidden_size"]),
        "clip.vision.image_mean": [float(each) for each in preprocessor["image_mean"]] if normalized else [0.0] * 3,
        "clip.vision.image_std": [float(each) for each in preprocessor["image_std"]] if normalized else [1.0] * 3,
    }


def _pixels_refused(preprocessor: Config) -> str | None:
    if not preprocessor["do_rescale"] or abs(float(preprocessor["rescale_factor"]) * _BYTE - 1) > _NEAR:
        return "llama.cpp divides pixels by 255, and this model's image processor does not"
    return None


def _llava_settings(config: Config, preprocessor: Config) -> dict[str, Any]:
    vision = config["vision_config"]
    return {
        **_common(config, preprocessor),
        "clip.has_llava_projector": True,
        "clip.projector_type": "mlp",
        "clip.vision.image_size": int(vision["image_size"]),
        "clip.vision.patch_size": int(vision["patch_size"]),
        "clip.vision.embedding_length": int(vision["hidden_size"]),
        "clip.vision.feed_forward_length": int(vision["intermediate_size"]),
        "clip.vision.block_count": int(vision["num_hidden_layers"]),
        "clip.vision.attention.head_count": int(vision["num_attention_heads"]),
        "clip.vision.attention.layer_norm_epsilon": float(vision["layer_norm_eps"]),
        "clip.vision.feature_layer": _feature_layers(config),
        **_ACTIVATIONS[vision["hidden_act"]],
    }


def _feature_layers(config: Config) -> list[int]:
    """Numbers of hidden states from 0, which is before the first block."""
    found = config["vision_feature_layer"]
    states = int(config["vision_config"]["num_hidden_layers"]) + 1
    return [int(layer) % states for layer in (found if isinstance(found, list | tuple) else (found,))]


def _llava_refused(config: Config, preprocessor: Config) -> str | None:
    vision = config["vision_config"]
    if vision["model_type"] not in _TOWERS:
        return f"llama.cpp's LLaVA has an encoder of CLIP or SigLIP, and this model has {vision['model_type']}"
    if vision["hidden_act"] not in _ACTIVATIONS:
        return f"llama.cpp's encoder has no {vision['hidden_act']}"
    if config.get("projector_hidden_act") != "gelu" or not config.get("multimodal_projector_bias", True):
        return "llama.cpp's LLaVA has a connector with GELU and biases"
    if vision["model_type"] == _TOWERS[0] and config["vision_feature_select_strategy"] != "default":
        return "llama.cpp leaves the class token out, and this model's features have it"
    if (layers := _feature_layers(config)) != sorted(layers):
        return "llama.cpp joins features of several layers in ascending order, and this model does not"
    return _pixels_refused(preprocessor)


def _llava_pieces(name: str) -> Sequence[Piece]:
    """Without what comes behind the layer that features are taken from: the last norm, SigLIP's head."""
    part, _, rest = name.partition(".")
    if part == "vision_tower":
        rest = rest.removeprefix("vision_model.")
        if rest.startswith(("post_layernorm.", "head.")) or rest.endswith("position_ids"):
            return ()
        return ((f"vision_tower.vision_model.{rest}", _same),)
    if part == "multi_modal_projector":
        layer, _, kind = rest.removeprefix("linear_").partition(".")
        return ((f"mm.{2 * int(layer) - 2}.{kind}", _same),)
    return ((name, _same),)


def _shifted(config: Config) -> Sequence[str]:
    """What its users see of a fault in tools/mtmd/models/llava.cpp, which puts the class token behind the patches."""
    return [_SHIFTED] if config["vision_config"]["model_type"] == _TOWERS[0] else []


def _llava_notes(config: Config, preprocessor: Config) -> Sequence[str]:
    does = "cuts out the middle" if preprocessor.get("do_center_crop") else "stretches it"
    return (
        *_shifted(config),
        f"llama.cpp fills an image up to a square with a border, where this model's image processor {does}: give it "
        "square images",
    )


LLAVA_FORM: Final = LlamaCppForm(
    model_types=("llava",),
    architectures=_LLAMAS,
    settings=_llava_settings,
    pieces=_llava_pieces,
    refused=_llava_refused,
    notes=_llava_notes,
)
"""LLaVA 1.5."""


def _next_settings(config: Config, preprocessor: Config) -> dict[str, Any]:
    """With the grids, width before height."""
    grids = preprocessor["image_grid_pinpoints"]
    flat = [int(side) for height, width in grids for side in (width, height)]
    return {**_llava_settings(config, preprocessor), "clip.vision.image_grid_pinpoints": flat}


def _next_pieces(name: str) -> Sequence[Piece]:
    return (("v.image_newline", _same),) if name == "image_newline" else _llava_pieces(name)


def _next_notes(config: Config, _preprocessor: Config) -> Sequence[str]:
    return (
        *_shifted(config),
        "llama.cpp puts the tiles of an image one behind the other and the small picture behind them, without the "
        "newlines and with the padding, otherwise than this model was trained, and does not cut an image that is no "
        "larger than the encoder: ask edgeq judge what of it is seen",
    )


LLAVA_NEXT_FORM: Final = replace(
    LLAVA_FORM, model_types=("llava_next",), settings=_next_settings, pieces=_next_pieces, notes=_next_notes
)
"""LLaVA 1.6. LLaVA-OneVision's shrunk grids are not in llama.cpp."""


def _qwen_settings(config: Config, preprocessor: Config) -> dict[str, Any]:
    vision = config["vision_config"]
    return {
        **_common(config, preprocessor),
        "clip.vision.image_size": 40 * int(vision["patch_size"]),  # any; llama.cpp asks for one
        "clip.vision.patch_size": int(vision["patch_size"]),
        "clip.vision.block_count": int(vision["depth"]),
        "clip.vision.attention.head_count": int(vision["num_heads"]),
        "clip.vision.attention.layer_norm_epsilon": 1e-6,
    }


def _qwen2_settings(config: Config, preprocessor: Config) -> dict[str, Any]:
    vision = config["vision_config"]
    width = int(vision["embed_dim"])
    return {
        **_qwen_settings(config, preprocessor),
        "clip.projector_type": "qwen2vl_merger",
        "clip.vision.embedding_length": width,
        "clip.vision.feed_forward_length": int(width * vision["mlp_ratio"]),
        **_ACTIVATIONS[vision["hidden_act"]],
    }


def _qwen25_settings(config: Config, preprocessor: Config) -> dict[str, Any]:
    vision = config["vision_config"]
    return {
        **_qwen_settings(config, preprocessor),
        "clip.projector_type": "qwen2.5vl_merger",
        "clip.vision.embedding_length": int(vision["hidden_size"]),
        "clip.vision.feed_forward_length": int(vision["intermediate_size"]),
        "clip.vision.n_wa_pattern": int(vision["fullatt_block_indexes"][0]) + 1,
        **_ACTIVATIONS[vision["hidden_act"]],
    }


def _qwen_refused(config: Config, preprocessor: Config) -> str | None:
    vision = config["vision_config"]
    if (vision["spatial_merge_size"], vision["temporal_patch_size"]) != (2, 2):
        return "llama.cpp merges 2 x 2 patches of two frames, and this model others"
    if vision["hidden_act"] not in _ACTIVATIONS:
        return f"llama.cpp's encoder has no {vision['hidden_act']}"
    return _pixels_refused(preprocessor)


def _qwen25_refused(config: Config, preprocessor: Config) -> str | None:
    vision = config["vision_config"]
    if vision["window_size"] != _WINDOW:
        return f"llama.cpp's encoder has windows of {_WINDOW} pixels, and this model of {vision['window_size']}"
    whole = sorted(vision["fullatt_block_indexes"])
    every = whole[0] + 1 if whole else 1
    if whole != [block for block in range(int(vision["depth"])) if (block + 1) % every == 0]:
        return "llama.cpp's encoder has no windows in every n-th block, and this model elsewhere"
    return _qwen_refused(config, preprocessor)


def _qwen_pieces(name: str) -> Sequence[Piece]:
    """Queries, keys and values apart, and a kernel for each of two frames."""
    if name == "visual.patch_embed.proj.weight":
        return tuple((f"v.patch_embd.weight{end}", _frame(place)) for place, end in enumerate(("", ".1")))
    if ".attn.qkv." in name:
        return tuple((name.replace("qkv", part), _third(place)) for place, part in enumerate("qkv"))
    return ((name, _same),)


def _frame(place: int) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda tensor: tensor[:, :, place]


def _third(place: int) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda tensor: tensor.chunk(3)[place]


def _qwen_notes(_config: Config, _preprocessor: Config) -> Sequence[str]:
    return (
        "llama.cpp fills an image up with black to whole patches, where this model's image processor stretches it: its "
        "flags for the least and most tokens of an image are in the recipe",
        _NO_EPSILON,
    )


def _qwen_flags(preprocessor: Config, tokens: int) -> Sequence[str]:
    token = (int(preprocessor["patch_size"]) * int(preprocessor["merge_size"])) ** 2
    least = max(1, int(preprocessor["size"]["shortest_edge"]) // token)
    return ("--image-min-tokens", str(least), "--image-max-tokens", str(tokens))


def _qwen_form(
    model_type: str,
    text: str,
    settings: Callable[[Config, Config], dict[str, Any]],
    refused: Callable[[Config, Config], str | None],
) -> LlamaCppForm:
    return LlamaCppForm(
        model_types=(model_type,),
        architectures={text: "qwen2vl"},
        settings=settings,
        pieces=_qwen_pieces,
        refused=refused,
        notes=_qwen_notes,
        frame=("<|vision_start|>", "<|vision_end|>"),
        flags=_qwen_flags,
    )


QWEN2_VL_FORM: Final = _qwen_form("qwen2_vl", "qwen2_vl_text", _qwen2_settings, _qwen_refused)
QWEN2_5_VL_FORM: Final = _qwen_form("qwen2_5_vl", "qwen2_5_vl_text", _qwen25_settings, _qwen25_refused)
