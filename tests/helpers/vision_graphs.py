"""Tiny vision-language models with an image processor, and photographs for them to look at."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import vlm
from conftest import SHARED
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file

from edgeq.model.images.image_set import ImageSet

__all__ = [
    "ANY_SIZE",
    "JOINED",
    "MODELS",
    "TOKENS",
    "edit_weights",
    "hf_features",
    "hf_joined",
    "hf_native",
    "photographs",
    "pixels",
    "write_eyes",
]

SIDE = 56
_CLIP = transformers.CLIPVisionConfig(**{**vlm.VISION, "image_size": SIDE})
_SIGLIP = transformers.SiglipVisionConfig(**{**vlm.VISION, "image_size": SIDE})
_SQUARE = {"height": SIDE, "width": SIDE}


def _llava(vision: Any, **changed: Any) -> Any:
    text = transformers.LlamaConfig(**vlm.TEXT)
    fixed = {"image_token_index": vlm.IMAGE_TOKEN, "image_seq_length": 16, "tie_word_embeddings": False}
    return transformers.LlavaConfig(vision_config=vision, text_config=text, **fixed, **changed)


def _internvl() -> Any:
    vision = {**vlm.VISION, "image_size": [SIDE, SIDE], "patch_size": [14, 14]}
    text = transformers.Qwen2Config(**vlm.TEXT)
    return transformers.InternVLConfig(vision_config=vision, text_config=text, image_seq_length=4)


def _gemma3() -> Any:
    text = {"model_type": "gemma3_text", **vlm.TEXT, "head_dim": 16}
    return transformers.Gemma3Config(vision_config=_SIGLIP, text_config=text, mm_tokens_per_image=4)


def _smolvlm() -> Any:
    vision = {"model_type": "smolvlm_vision", **vlm.VISION, "image_size": SIDE}
    return transformers.SmolVLMConfig(
        vision_config=vision,
        text_config=transformers.LlamaConfig(**vlm.TEXT),
        scale_factor=2,
        tie_word_embeddings=False,
    )


def _idefics3() -> Any:
    config = vlm.FAMILIES["idefics3"]()
    config.vision_config.image_size = SIDE
    return config


def _paligemma() -> Any:
    config = vlm.FAMILIES["paligemma"]()
    config.vision_config.image_size = SIDE
    return config


MODELS: Mapping[str, Callable[[], Any]] = {
    "llava": lambda: _llava(_CLIP),
    "llava two layers": lambda: _llava(_CLIP, vision_feature_layer=[-2, -1]),
    "llava siglip": lambda: _llava(_SIGLIP, vision_feature_select_strategy="full", vision_feature_layer=-1),
    "paligemma": _paligemma,
    "gemma3": _gemma3,
    "internvl": _internvl,
    "idefics3": _idefics3,
    "smolvlm": _smolvlm,
}

_PINPOINTS = [[SIDE * rows, SIDE * columns] for rows, columns in ((1, 2), (2, 1), (2, 2), (1, 3), (3, 1))]


def _llava_next() -> Any:
    text = transformers.MistralConfig(**vlm.TEXT)
    fixed = {"image_token_index": vlm.IMAGE_TOKEN, "tie_word_embeddings": False}
    return transformers.LlavaNextConfig(vision_config=_CLIP, text_config=text, image_grid_pinpoints=_PINPOINTS, **fixed)


def _onevision() -> Any:
    """Of which grids of more than two tiles are shrunk."""
    text = transformers.Qwen2Config(**vlm.TEXT)
    fixed = {"image_token_index": vlm.IMAGE_TOKEN, "tie_word_embeddings": False}
    return transformers.LlavaOnevisionConfig(
        vision_config=_SIGLIP,
        text_config=text,
        image_grid_pinpoints=_PINPOINTS,
        vision_aspect_ratio="anyres_max_2",
        **fixed,
    )


JOINED: Mapping[str, Callable[[], Any]] = {"llava_next": _llava_next, "onevision": _onevision}
"""Models whose tiles are joined again, so that what the language model gets depends on the size of the photograph."""

_QWEN = {"image_token_id": vlm.IMAGE_TOKEN, "tie_word_embeddings": False}
_EYES = {"hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64, "patch_size": 14}


def _qwen2_5_vl() -> Any:
    """Windows of 2 x 2 merged patches in the first layer, all patches in the second."""
    vision = {**_EYES, "depth": 2, "window_size": SIDE, "fullatt_block_indexes": [1]}
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}
    return transformers.Qwen2_5_VLConfig(
        vision_config=vision, text_config={**vlm.TEXT, "rope_parameters": rope}, **_QWEN
    )


def _qwen3_vl() -> Any:
    """With features of the first two layers besides."""
    vision = {**_EYES, "depth": 3, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4, "mrope_interleaved": True}
    text = {**vlm.TEXT, "head_dim": 16, "rope_parameters": rope}
    return transformers.Qwen3VLConfig(vision_config=vision, text_config=text, **_QWEN)


ANY_SIZE: Mapping[str, Callable[[], Any]] = {"qwen2_5_vl": _qwen2_5_vl, "qwen3_vl": _qwen3_vl}
"""Models that take a photograph in its own size, as one run of several inputs."""

TOKENS: Mapping[str, int] = {
    **dict.fromkeys(("llava", "llava two layers", "llava siglip", "paligemma"), 16),
    **dict.fromkeys(("gemma3", "internvl", "idefics3", "smolvlm"), 4),
}
"""Features of a picture: 4 x 4 patches of 14 x 14 pixels, of which the families below make one of each four."""

_NATIVE = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "patch_size": 14,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "size": {"shortest_edge": SIDE * SIDE, "longest_edge": 16 * SIDE * SIDE},
}
_PROCESSORS: Mapping[str, Mapping[str, Any]] = {
    "llava": {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": SIDE}, "crop_size": _SQUARE},
    "paligemma": {"image_processor_type": "SiglipImageProcessor", "size": _SQUARE},
    "gemma3": {"image_processor_type": "Gemma3ImageProcessor", "size": _SQUARE},
    "internvl": {
        "image_processor_type": "GotOcr2ImageProcessor",
        "size": _SQUARE,
        "crop_to_patches": True,
        "max_patches": 2,
    },
    "idefics3": {
        "image_processor_type": "Idefics3ImageProcessor",
        "size": {"longest_edge": 2 * SIDE},
        "max_image_size": {"longest_edge": SIDE},
    },
    **dict.fromkeys(ANY_SIZE, _NATIVE),
    "llava_next": {
        "image_processor_type": "LlavaNextImageProcessor",
        "size": {"shortest_edge": SIDE},
        "crop_size": _SQUARE,
        "image_grid_pinpoints": _PINPOINTS,
    },
    "onevision": {
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "size": _SQUARE,
        "image_grid_pinpoints": _PINPOINTS,
    },
    "smolvlm": {
        "image_processor_type": "SmolVLMImageProcessor",
        "size": {"longest_edge": 2 * SIDE},
        "max_image_size": {"longest_edge": SIDE},
    },
}


def write_eyes(directory: Path, name: str = "llava", **saving: Any) -> Path:
    """One of the models with weights so large that its features differ between images, and its image processor."""
    torch.manual_seed(0)
    model = (
        transformers.AutoModelForImageTextToText.from_config({**MODELS, **JOINED, **ANY_SIZE}[name]()).float().eval()
    )
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim > 1:
                value.normal_(std=1 / np.sqrt(value[0].numel()))
    model.save_pretrained(directory, **saving)
    processor = _PROCESSORS[name.partition(" ")[0]]
    (directory / "preprocessor_config.json").write_text(json.dumps(processor))
    return directory


def edit_weights(model: Path, **factors: float) -> None:
    """Multiply weights; `fc1_weight=4` is for every tensor whose name ends in fc1.weight of the vision tower."""
    weights = load_file(model / "model.safetensors")
    for ending, factor in factors.items():
        wanted = [name for name in weights if "vision" in name and name.endswith("." + ending.replace("__", "."))]
        assert wanted
        for name in wanted:
            weights[name] = weights[name] * factor
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})


@cache
def photographs(count: int = 2) -> tuple[Image.Image, ...]:
    """Real photographs where they lie beside the checkout, drawn pictures otherwise."""
    zipped = SHARED / "imagenet-sample" / "photos.zip"
    if zipped.exists():
        images = ImageSet.open(zipped).sample(count)
        return tuple(images.read(item).resize((120, 80)) for item in images.items)
    rng = np.random.default_rng(5)
    drawn = (rng.normal(128, 50, (80, 120, 3)).clip(0, 255).astype(np.uint8) for _ in range(count))
    return tuple(Image.fromarray(values) for values in drawn)


def pixels(model: Path, photograph: Image.Image) -> NDArray[np.float32]:
    """Float32 [pictures, 3, H, W] as the model's image processor makes them."""
    processor = transformers.AutoImageProcessor.from_pretrained(model, backend="pil")
    made = np.asarray(processor(images=photograph, return_tensors="np")["pixel_values"], np.float32)
    return made.reshape(-1, *made.shape[-3:])


def hf_features(model: Path, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """What transformers' whole model puts in the places of the image, [pictures, tokens, hidden]."""
    whole = transformers.AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32).eval()
    given = torch.from_numpy(values)
    many_images = whole.config.model_type in ("idefics3", "smolvlm")
    with torch.inference_mode():
        found = whole.get_image_features(given[None] if many_images else given, return_dict=True).pooler_output
    joined = found if isinstance(found, torch.Tensor) else torch.stack(list(found))
    features: NDArray[np.float32] = joined.reshape(len(values), -1, joined.shape[-1]).numpy()
    return features


def hf_joined(model: Path, photograph: Image.Image) -> NDArray[np.float32]:
    """What transformers' whole model of JOINED puts in the places of a photograph, [tokens, hidden]."""
    whole = transformers.AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(model, backend="pil")
    given = processor(images=photograph, return_tensors="pt")
    with torch.inference_mode():
        found = whole.get_image_features(given["pixel_values"], given["image_sizes"], return_dict=True).pooler_output
    features: NDArray[np.float32] = found[0].numpy()
    return features


def hf_native(model: Path, photograph: Image.Image) -> list[NDArray[np.float32]]:
    """What transformers' whole model of ANY_SIZE makes of a photograph: features and those for further layers."""
    whole = transformers.AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(model, backend="pil")
    given = processor(images=photograph, return_tensors="pt")
    with torch.inference_mode():
        found = whole.get_image_features(given["pixel_values"], given["image_grid_thw"], return_dict=True)
    return [level[0].numpy() for level in (found.pooler_output, *(found.get("deepstack_features") or ()))]
