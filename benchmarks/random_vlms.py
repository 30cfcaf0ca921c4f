"""Vision-language models of random parameters, built as the families' own are, in FP16.

    python -m benchmarks.random_vlms onevision-7m DIRECTORY

writes one, for `edgeq prepare`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["RANDOM_VLMS", "RandomVlm", "build_tokenizer", "main", "write_random_vlm"]

_SHARDS: Final = "1GB"
_IMAGE: Final = "<image>"
_TILE: Final = "<|image|>"
_QWEN: Final = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
_TEXT: Final[Mapping[str, Any]] = {
    "vocab_size": 32_000,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 20,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
_VISION: Final[Mapping[str, Any]] = {"hidden_size": 768, "intermediate_size": 3072}
_CLIP: Final = {"height": 224, "width": 224}
_TILES: Final = {"height": 336, "width": 336}
_SMALL: Final = {"height": 112, "width": 112}
_PINPOINTS: Final = [[112 * rows, 112 * columns] for rows, columns in ((1, 1), (1, 2), (2, 1), (2, 2))]


@dataclass(frozen=True)
class RandomVlm:
    """One kind of model.

    Attributes:
        config: made with a tokenizer, which has the special tokens.
        processor: preprocessor_config.json, beside mean and standard deviation.
        image: what the chat template writes for an image.
        added: special tokens that the demo's tokenizer lacks.
    """

    config: Callable[[PreTrainedTokenizerFast], Any]
    processor: Mapping[str, Any]
    image: str = _IMAGE
    added: tuple[str, ...] = ()


def _text(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """The language model's config; the four that begin, end and fill a text are the tokenizer's."""
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {**_TEXT, **{name: getattr(tokenizer, name) for name in names}}


def _llava(tokenizer: PreTrainedTokenizerFast) -> Any:
    """256 tokens an image."""
    import transformers

    vision = transformers.CLIPVisionConfig(
        **_VISION, num_hidden_layers=12, num_attention_heads=12, image_size=_CLIP["height"], patch_size=14
    )
    return transformers.LlavaConfig(
        vision_config=vision,
        text_config=transformers.LlamaConfig(**_text(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids(_IMAGE),
        image_seq_length=256,
        tie_word_embeddings=False,
    )


def _tinyllama(tokenizer: PreTrainedTokenizerFast) -> Any:
    """A language model of TinyLlama-1.1B's shape, behind two layers of a vision tower."""
    config = _llava(tokenizer)
    config.text_config.num_hidden_layers, config.vision_config.num_hidden_layers = 22, 2
    return config


def _mllama(tokenizer: PreTrainedTokenizerFast) -> Any:
    """4 tiles of 577 patches, seen by four cross-attention layers of twenty."""
    import transformers

    vision = {
        **_VISION,
        **{"attention_heads": 12, "num_hidden_layers": 12, "num_global_layers": 2, "image_size": _TILES["height"]},
        **{
            "patch_size": 14,
            "max_num_tiles": 4,
            "intermediate_layers_indices": [3, 6, 9],
            "vision_output_dim": 4 * 768,
        },
        "supported_aspect_ratios": [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
    }
    rope = {"rope_type": "default", "rope_theta": 5e5}
    text = {**_text(tokenizer), "cross_attention_layers": [3, 8, 13, 18], "rope_parameters": rope}
    token = tokenizer.convert_tokens_to_ids(_TILE)
    return transformers.MllamaConfig(vision_config=vision, text_config=text, image_token_index=token)


def _qwen3_vl(tokenizer: PreTrainedTokenizerFast) -> Any:
    """A token for 32 x 32 pixels, with features behind three layers."""
    import transformers

    vision = {
        **_VISION,
        **{"depth": 12, "num_heads": 12, "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2},
        **{"out_hidden_size": 2048, "num_position_embeddings": 48**2, "deepstack_visual_indexes": [3, 6, 9]},
    }
    rope = {"rope_type": "default", "mrope_section": [24, 20, 20], "rope_theta": 5e6, "mrope_interleaved": True}
    heads = {"num_attention_heads": 16, "head_dim": 128, "num_hidden_layers": 18, "max_position_embeddings": 4096}
    start, image, end = (tokenizer.convert_tokens_to_ids(token) for token in _QWEN)
    return transformers.Qwen3VLConfig(
        vision_config=vision,
        text_config={**_text(tokenizer), **heads, "rope_parameters": rope},
        image_token_id=image,
        video_token_id=_TEXT["vocab_size"] - 1,
        vision_start_token_id=start,
        vision_end_token_id=end,
        tie_word_embeddings=False,
    )


def _narrow(kind: Callable[[PreTrainedTokenizerFast], Any], **text: Any) -> Callable[[PreTrainedTokenizerFast], Any]:
    """A kind of model whose language model is of the size of the demo's."""

    def config(tokenizer: PreTrainedTokenizerFast) -> Any:
        large = kind(tokenizer)
        sizes = {"vocab_size": 1024, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024, "head_dim": 64}
        for name, value in {**sizes, **heads, **text}.items():
            setattr(large.text_config, name, value)
        if hasattr(large.vision_config, "out_hidden_size"):
            large.vision_config.out_hidden_size = sizes["hidden_size"]
        return large

    return config


def _onevision(tokenizer: PreTrainedTokenizerFast) -> Any:
    """Of the size of the demo's model; 136 tokens for a square image: it in 64, and once more in rows."""
    import transformers

    vision = transformers.SiglipVisionConfig(
        hidden_size=192,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=6,
        image_size=_SMALL["height"],
        patch_size=14,
    )
    narrow = {"vocab_size": 1024, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024}
    return transformers.LlavaOnevisionConfig(
        vision_config=vision,
        text_config=transformers.Qwen2Config(**{**_text(tokenizer), **narrow, **heads}),
        image_token_index=tokenizer.convert_tokens_to_ids(_IMAGE),
        image_grid_pinpoints=_PINPOINTS,
        vision_aspect_ratio="anyres_max_9",
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )


def _qwen2_5_vl(tokenizer: PreTrainedTokenizerFast) -> Any:
    """Of the size of the demo's model, in multiples of 128 as INT4 kernels have them."""
    import transformers

    vision = {
        **{"depth": 2, "hidden_size": 128, "intermediate_size": 256, "num_heads": 2, "out_hidden_size": 256},
        **{"patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112},
        **{"fullatt_block_indexes": [1]},
    }
    rope = {"rope_type": "default", "mrope_section": [8, 12, 12], "rope_theta": 1e6}
    narrow = {"vocab_size": 1024, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024}
    start, image, end = (tokenizer.convert_tokens_to_ids(token) for token in _QWEN)
    return transformers.Qwen2_5_VLConfig(
        vision_config=vision,
        text_config={**_text(tokenizer), **narrow, **heads, "rope_parameters": rope},
        image_token_id=image,
        video_token_id=narrow["vocab_size"] - 1,
        vision_start_token_id=start,
        vision_end_token_id=end,
        tie_word_embeddings=False,
    )


_CLIP_PROCESSOR: Final = {"image_processor_type": "CLIPImageProcessor", "size": _CLIP, "crop_size": _CLIP}
_MLLAMA_PROCESSOR: Final = {"image_processor_type": "MllamaImageProcessor", "size": _TILES, "max_image_tiles": 4}
_QWEN_PROCESSOR: Final = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "size": {"shortest_edge": 256**2, "longest_edge": 4096**2},
    **{"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2},
}
_PIXELS_PROCESSOR: Final = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "size": {"shortest_edge": 112**2, "longest_edge": 224**2},
    **{"patch_size": 14, "temporal_patch_size": 2, "merge_size": 2},
}
_TURNS: Final = {"rope_type": "default", "mrope_section": [12, 10, 10], "rope_theta": 5e6, "mrope_interleaved": True}

RANDOM_VLMS: Final[Mapping[str, RandomVlm]] = {
    "1.1b": RandomVlm(_llava, _CLIP_PROCESSOR),
    "tinyllama": RandomVlm(_tinyllama, _CLIP_PROCESSOR),
    "mllama-1b": RandomVlm(_mllama, _MLLAMA_PROCESSOR, _TILE, (_TILE,)),
    "qwen3-vl-1b": RandomVlm(_qwen3_vl, _QWEN_PROCESSOR, "".join(_QWEN), _QWEN),
    "llava-7m": RandomVlm(_narrow(_llava), _CLIP_PROCESSOR),
    "qwen3-vl-7m": RandomVlm(_narrow(_qwen3_vl, rope_parameters=_TURNS), _QWEN_PROCESSOR, "".join(_QWEN), _QWEN),
    "qwen2.5-vl-7m": RandomVlm(_qwen2_5_vl, _PIXELS_PROCESSOR, "".join(_QWEN), _QWEN),
    "onevision-7m": RandomVlm(
        _onevision,
        {
            "image_processor_type": "LlavaOnevisionImageProcessor",
            "size": _SMALL,
            "image_grid_pinpoints": _PINPOINTS,
        },
    ),
}
"""Name -> the kind."""


def build_tokenizer(kind: RandomVlm) -> PreTrainedTokenizerFast:
    """The demo's, with the tokens and the chat template of a kind."""
    from edgeq.demo.vlm.tokens import CHAT_TEMPLATE, build_processor

    tokenizer: PreTrainedTokenizerFast = build_processor().tokenizer
    tokenizer.add_tokens(list(kind.added), special_tokens=True)
    tokenizer.chat_template = CHAT_TEMPLATE.replace(_IMAGE, kind.image)
    return tokenizer


def write_random_vlm(directory: Path, kind: RandomVlm) -> int:
    """A model directory with weights in files of at most 1 GB.

    Returns:
        Its parameters.
    """
    import torch
    import transformers

    from edgeq.demo.export import IMAGE_MEAN, IMAGE_STD

    tokenizer = build_tokenizer(kind)
    torch.manual_seed(0)
    model = transformers.AutoModelForImageTextToText.from_config(kind.config(tokenizer), dtype=torch.float16)
    with torch.no_grad():  # what the tokenizer has no text for is never said: a conversation goes on with the answers
        model.get_output_embeddings().weight[len(tokenizer) :] = 0
    model.save_pretrained(directory, max_shard_size=_SHARDS)
    tokenizer.save_pretrained(directory)
    described = {**kind.processor, "image_mean": list(IMAGE_MEAN), "image_std": list(IMAGE_STD)}
    (directory / "preprocessor_config.json").write_text(json.dumps(described), encoding="utf-8")
    return sum(weight.numel() for weight in model.parameters())


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a model."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.random_vlms")
    parser.add_argument("name", choices=list(RANDOM_VLMS))
    parser.add_argument("directory", type=Path)
    given = parser.parse_args(arguments)
    print(f"{write_random_vlm(given.directory, RANDOM_VLMS[given.name]):,} parameters in {given.directory}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
