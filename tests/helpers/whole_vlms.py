"""Tiny random models of every family that runs, each with its real image processor, a tokenizer and a chat template."""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from vision_graphs import photographs

__all__ = ["SPECIAL", "WHOLE", "WholeVlm", "odd_photographs", "write_whole_vlm"]

SIDE, PATCH = 28, 14
_LETTERS = string.ascii_letters + string.digits + " \n?:.,;!-'" + '"()/%+=*#&@[]$'
SPECIAL = (
    *("<pad>", "<s>", "</s>", "<unk>", "<image>", "<|image|>", "<|image_pad|>", "<|vision_start|>", "<|vision_end|>"),
    *("<image_soft_token>", "<start_of_image>", "<end_of_image>", "<img>", "</img>", "<IMG_CONTEXT>"),
    *("<fake_token_around_image>", "<global-img>", "<end_of_utterance>"),
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
    *("[IMG]", "[IMG_BREAK]", "[IMG_END]"),
)
_NUMBERS = {token: number for number, token in enumerate((*SPECIAL, *_LETTERS))}
VOCABULARY = 160
TEXT: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_VISION: Mapping[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
}
_SQUARE = {"height": SIDE, "width": SIDE}
_PINPOINTS = [[SIDE * rows, SIDE * columns] for rows, columns in ((1, 2), (2, 1), (2, 2), (1, 3), (3, 1))]
_ROPE = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}


@dataclass(frozen=True)
class WholeVlm:
    """One kind.

    Attributes:
        config: of the model.
        processor: preprocessor_config.json.
        image: what the chat template writes for an image; None for a model without a template.
        tokenizer: further attributes of the tokenizer.
    """

    config: Callable[[], Any]
    processor: Mapping[str, Any]
    image: str | None
    tokenizer: Mapping[str, Any] = field(default_factory=dict)


def _clip() -> Any:
    return transformers.CLIPVisionConfig(**_VISION)


def _siglip() -> Any:
    return transformers.SiglipVisionConfig(**_VISION)


def _llava() -> Any:
    return transformers.LlavaConfig(
        vision_config=_clip(),
        text_config=transformers.LlamaConfig(**TEXT),
        image_token_index=_NUMBERS["<image>"],
        tie_word_embeddings=False,
    )


def _llava_next() -> Any:
    """With a Mistral whose window is shorter than a prompt."""
    return transformers.LlavaNextConfig(
        vision_config=_clip(),
        text_config=transformers.MistralConfig(**TEXT, sliding_window=24),
        image_token_index=_NUMBERS["<image>"],
        image_grid_pinpoints=_PINPOINTS,
        tie_word_embeddings=False,
    )


def _llava_onevision() -> Any:
    """Of which a grid of three tiles is shrunk."""
    return transformers.LlavaOnevisionConfig(
        vision_config=_siglip(),
        text_config=transformers.Qwen2Config(**TEXT),
        image_token_index=_NUMBERS["<image>"],
        image_grid_pinpoints=_PINPOINTS,
        vision_aspect_ratio="anyres_max_2",
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )


def _mllama() -> Any:
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "attention_heads": 2,
        "num_hidden_layers": 2,
        "num_global_layers": 1,
        "image_size": SIDE,
        "patch_size": PATCH,
        "max_num_tiles": 4,
        "supported_aspect_ratios": [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
        "intermediate_layers_indices": [0],
        "vision_output_dim": 64,
    }
    rope = {"rope_type": "default", "rope_theta": 1e4}
    text = {**TEXT, "num_hidden_layers": 4, "cross_attention_layers": [1, 3], "rope_parameters": rope}
    return transformers.MllamaConfig(vision_config=vision, text_config=text, image_token_index=_NUMBERS["<|image|>"])


def _qwen(kind: Any, vision: Mapping[str, Any], **text: Any) -> Any:
    return kind(
        vision_config={"patch_size": PATCH, "spatial_merge_size": 2, "temporal_patch_size": 2, **vision},
        text_config={**TEXT, **text},
        image_token_id=_NUMBERS["<|image_pad|>"],
        video_token_id=VOCABULARY - 1,
        vision_start_token_id=_NUMBERS["<|vision_start|>"],
        vision_end_token_id=_NUMBERS["<|vision_end|>"],
        tie_word_embeddings=False,
    )


def _qwen2_vl() -> Any:
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2}
    return _qwen(transformers.Qwen2VLConfig, vision, rope_parameters=_ROPE)


def _qwen2_5_vl() -> Any:
    """Windows of 2 x 2 merged patches in the first layer, all patches in the second."""
    vision = {
        **{"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64},
        **{"window_size": 4 * PATCH, "fullatt_block_indexes": [1]},
    }
    return _qwen(transformers.Qwen2_5_VLConfig, vision, rope_parameters=_ROPE)


def _qwen3_vl() -> Any:
    vision = {
        **{"depth": 3, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64},
        **{"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]},
    }
    return _qwen(transformers.Qwen3VLConfig, vision, head_dim=16, rope_parameters={**_ROPE, "mrope_interleaved": True})


def _idefics3(kind: Any = transformers.Idefics3Config, vision: str = "idefics3_vision") -> Any:
    return kind(
        vision_config={"model_type": vision, **_VISION},
        text_config=transformers.LlamaConfig(**TEXT),
        image_token_id=_NUMBERS["<image>"],
        scale_factor=2,
        tie_word_embeddings=False,
    )


def _smolvlm() -> Any:
    return _idefics3(transformers.SmolVLMConfig, "smolvlm_vision")


def _internvl() -> Any:
    vision = {**_VISION, "image_size": [2 * SIDE] * 2, "patch_size": [PATCH] * 2}
    return transformers.InternVLConfig(
        vision_config=vision,
        text_config=transformers.Qwen2Config(**TEXT),
        image_token_id=_NUMBERS["<IMG_CONTEXT>"],
        image_seq_length=4,
        tie_word_embeddings=False,
    )


def _paligemma() -> Any:
    return transformers.PaliGemmaConfig(
        vision_config=_siglip(),
        text_config=transformers.GemmaConfig(**TEXT, head_dim=16),
        image_token_index=_NUMBERS["<image>"],
        projection_dim=64,
    )


def _paligemma2() -> Any:
    """With a Gemma 2: scores are capped, every second layer has a window."""
    text = transformers.Gemma2Config(
        **TEXT, head_dim=16, query_pre_attn_scalar=16, sliding_window=32, attn_logit_softcapping=5.0
    )
    return transformers.PaliGemmaConfig(
        vision_config=_siglip(), text_config=text, image_token_index=_NUMBERS["<image>"], projection_dim=64
    )


def _gemma3() -> Any:
    """An image is 16 tokens, and the window of two layers is 24."""
    vision = transformers.SiglipVisionConfig(**{**_VISION, "image_size": 8 * PATCH})
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    text = {
        "model_type": "gemma3_text",
        **TEXT,
        **{"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 24, "layer_types": kinds},
    }
    return transformers.Gemma3Config(
        vision_config=vision,
        text_config=text,
        mm_tokens_per_image=16,
        image_token_index=_NUMBERS["<image_soft_token>"],
        boi_token_index=_NUMBERS["<start_of_image>"],
        eoi_token_index=_NUMBERS["<end_of_image>"],
    )


def _mistral3(text: Any = None, layer: int = -1) -> Any:
    return transformers.Mistral3Config(
        vision_config=transformers.PixtralVisionConfig(**{**_VISION, "image_size": 4 * SIDE}),
        text_config=text or transformers.MistralConfig(**TEXT, sliding_window=None),
        image_token_index=_NUMBERS["[IMG]"],
        vision_feature_layer=layer,
        tie_word_embeddings=False,
    )


def _ministral3() -> Any:
    """Ministral 3, whose queries grow every 32 positions, with features of the last layer but one."""
    scales = {"factor": 64.0, "original_max_position_embeddings": 32, "llama_4_scaling_beta": 0.5}
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "beta_fast": 32.0, "beta_slow": 1.0, **scales}
    return _mistral3(transformers.Ministral3Config(**TEXT, head_dim=16, rope_parameters=rope), -2)


_QWEN_PROCESSOR = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "size": {"shortest_edge": 56 * 56, "longest_edge": 56 * 112},
    "patch_size": PATCH,
    "temporal_patch_size": 2,
    "merge_size": 2,
}
_QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
_TILES = {"size": {"longest_edge": 3 * SIDE}, "max_image_size": {"longest_edge": SIDE}}
_PIXTRAL_PROCESSOR = {
    "image_processor_type": "PixtralImageProcessor",
    "size": {"longest_edge": 100},
    "patch_size": {"height": PATCH, "width": PATCH},
}
_PALIGEMMA_PROCESSOR = {"image_processor_type": "SiglipImageProcessor", "size": _SQUARE, "image_seq_length": 4}

WHOLE: Mapping[str, WholeVlm] = {
    "llava": WholeVlm(
        _llava,
        {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": SIDE}, "crop_size": _SQUARE},
        "<image>",
    ),
    "llava_next": WholeVlm(
        _llava_next,
        {
            "image_processor_type": "LlavaNextImageProcessor",
            "size": {"shortest_edge": SIDE},
            "crop_size": _SQUARE,
            "image_grid_pinpoints": _PINPOINTS,
        },
        "<image>",
    ),
    "llava_onevision": WholeVlm(
        _llava_onevision,
        {
            "image_processor_type": "LlavaOnevisionImageProcessor",
            "size": _SQUARE,
            "image_grid_pinpoints": _PINPOINTS,
        },
        "<image>",
    ),
    "mllama": WholeVlm(
        _mllama,
        {"image_processor_type": "MllamaImageProcessor", "size": _SQUARE, "max_image_tiles": 4},
        "<|image|>",
    ),
    "qwen2_vl": WholeVlm(_qwen2_vl, _QWEN_PROCESSOR, _QWEN_IMAGE),
    "qwen2_5_vl": WholeVlm(_qwen2_5_vl, _QWEN_PROCESSOR, _QWEN_IMAGE),
    "qwen3_vl": WholeVlm(_qwen3_vl, _QWEN_PROCESSOR, _QWEN_IMAGE),
    "idefics3": WholeVlm(_idefics3, {"image_processor_type": "Idefics3ImageProcessor", **_TILES}, "<image>"),
    "smolvlm": WholeVlm(_smolvlm, {"image_processor_type": "SmolVLMImageProcessor", **_TILES}, "<image>"),
    "internvl": WholeVlm(
        _internvl,
        {
            "image_processor_type": "GotOcr2ImageProcessor",
            "size": {"height": 2 * SIDE, "width": 2 * SIDE},
            "crop_to_patches": False,
            "max_patches": 3,
        },
        "<IMG_CONTEXT>",
    ),
    "paligemma": WholeVlm(_paligemma, _PALIGEMMA_PROCESSOR, None),
    "paligemma2": WholeVlm(_paligemma2, _PALIGEMMA_PROCESSOR, None),
    "gemma3": WholeVlm(
        _gemma3,
        {"image_processor_type": "Gemma3ImageProcessor", "size": {"height": 8 * PATCH, "width": 8 * PATCH}},
        "<start_of_image>",
        {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"},
    ),
    "mistral3": WholeVlm(_mistral3, _PIXTRAL_PROCESSOR, "[IMG]"),
    "ministral3": WholeVlm(_ministral3, _PIXTRAL_PROCESSOR, "[IMG]"),
}
"""Name -> the kind. The published InternVL says `crop_to_patches: false`, which its processor overrides."""


_SIZES = ((300, 225), (225, 300), (210, 210), (400, 90), (97, 311))
"""Widths and heights."""


@cache
def odd_photographs() -> tuple[Image.Image, ...]:
    """Five of different shapes."""
    return tuple(photograph.resize(size) for photograph, size in zip(photographs(len(_SIZES)), _SIZES, strict=True))


def write_whole_vlm(directory: Path, name: str, dtype: torch.dtype = torch.float16) -> Path:
    """A model directory; weights are drawn so that what an answer says depends on the image."""
    kind = WHOLE[name]
    torch.manual_seed(0)
    model = transformers.AutoModelForImageTextToText.from_config(kind.config()).float().eval()
    with torch.no_grad():
        for label, value in model.named_parameters():
            if value.ndim > 1 and "embed_tokens" not in label and "lm_head" not in label:
                value.normal_(std=(1.5 if "proj" in label else 1.0) / value[0].numel() ** 0.5)
            elif label.endswith("gate"):
                value.fill_(0.8)
    model.to(dtype).save_pretrained(directory)
    (directory / "preprocessor_config.json").write_text(json.dumps(kind.processor))
    _write_tokenizer(directory, kind)
    return directory


def _write_tokenizer(directory: Path, kind: WholeVlm) -> None:
    """A token for each character; a template that marks whose turn it is."""
    tokenizer = Tokenizer(models.WordLevel(_NUMBERS, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens=dict(kind.tokenizer),
    )
    if kind.image is not None:
        wrapped.chat_template = (
            "<s>{% for message in messages %}{{ message['role'][0] + ':' }}{% for part in message['content'] %}"
            "{% if part['type'] == 'image' %}" + kind.image + "{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
            "\n{% endfor %}{% if add_generation_prompt %}a:{% endif %}"
        )
    wrapped.save_pretrained(directory)
