"""Tiny vision-language models with random weights, one of each family, as directories that a user would give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from edgeq.families.modules import read_modules
from edgeq.plan.rules import plan_modules
from edgeq.quantize.nf4.skip_list import skip_modules

__all__ = ["FAMILIES", "IMAGE_TOKEN", "PREFIXES", "in_four_bits", "tiny_vlm", "write_vlm"]

IMAGE_TOKEN = 90
TEXT = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def _llava() -> Any:
    return transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION),
        text_config=transformers.LlamaConfig(**TEXT),
        image_token_index=IMAGE_TOKEN,
        image_seq_length=4,
        tie_word_embeddings=False,
    )


def _qwen2_vl() -> Any:
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}
    return transformers.Qwen2VLConfig(
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "patch_size": 14},
        text_config={**TEXT, "rope_parameters": rope},
        image_token_id=IMAGE_TOKEN,
        video_token_id=IMAGE_TOKEN + 1,
        vision_start_token_id=IMAGE_TOKEN + 2,
        vision_end_token_id=IMAGE_TOKEN + 3,
        tie_word_embeddings=False,
    )


def _mllama() -> Any:
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "attention_heads": 2,
        "num_hidden_layers": 2,
        "num_global_layers": 1,
        "image_size": 28,
        "patch_size": 14,
        "max_num_tiles": 2,
        "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
        "intermediate_layers_indices": [0],
        "vision_output_dim": 64,
    }
    rope = {"rope_type": "default", "rope_theta": 1e4}
    text = {**TEXT, "num_hidden_layers": 3, "cross_attention_layers": [1], "rope_parameters": rope}
    return transformers.MllamaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE_TOKEN)


def _idefics3() -> Any:
    return transformers.Idefics3Config(
        vision_config=transformers.Idefics3VisionConfig(**VISION),
        text_config=transformers.LlamaConfig(**TEXT),
        image_token_id=IMAGE_TOKEN,
        scale_factor=2,
        tie_word_embeddings=False,
    )


def _paligemma() -> Any:
    return transformers.PaliGemmaConfig(
        vision_config=transformers.SiglipVisionConfig(**VISION),
        text_config=transformers.GemmaConfig(**TEXT, head_dim=16),
        image_token_index=IMAGE_TOKEN,
        projection_dim=64,
    )


FAMILIES: Mapping[str, Callable[[], Any]] = {
    "llava": _llava,
    "qwen2_vl": _qwen2_vl,
    "mllama": _mllama,
    "idefics3": _idefics3,
    "paligemma": _paligemma,
}
"""The model type of each family -> its config. PaliGemma's head is its embedding, the others have one of their own."""

PREFIXES: Mapping[str, str] = {
    "llava": "model.language_model",
    "qwen2_vl": "model.language_model",
    "mllama": "model.language_model",
    "idefics3": "model.text_model",
    "paligemma": "model.language_model",
}
"""Where each family keeps its language model without the head."""


def tiny_vlm(family: str, dtype: torch.dtype = torch.float16, seed: int = 0) -> Any:
    """The model itself; weights of about a hundred thousand numbers, drawn from `seed`."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForImageTextToText.from_config(FAMILIES[family]())
    return model.to(dtype).eval()


def write_vlm(
    directory: Path, family: str, dtype: torch.dtype = torch.float16, *, shard: str = "2GB", hub: bool = False
) -> Path:
    """A directory with the model in shards of at most `shard`, under the new names or under those of the hub."""
    tiny_vlm(family, dtype).save_pretrained(directory, max_shard_size=shard, save_original_format=hub)
    (directory / "tokenizer_config.json").write_text('{"model_max_length": 128}')
    return directory


def in_four_bits(source: Path) -> Any:
    """The whole model, its language half quantized by transformers with the list of edgeq's plan."""
    settings = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float16,
        llm_int8_skip_modules=skip_modules(plan_modules(read_modules(source))),
    )
    kind = transformers.AutoModelForImageTextToText
    return kind.from_pretrained(source, quantization_config=settings, dtype=torch.float16)
