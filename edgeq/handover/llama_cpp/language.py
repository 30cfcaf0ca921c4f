"""What a GGUF file says of a language model, from the config that transformers has of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import InputError
from edgeq.families.base import Config
from edgeq.handover.llama_cpp.gguf_file import GgufTensor

__all__ = ["language_settings", "rope_tensors"]

_PLAIN: Final = frozenset({"default", "mrope"})
_SECTIONS: Final = 4
"""Axes of a position in GGUF; the fourth has no numbers."""


def language_settings(text: Config, architecture: str) -> dict[str, Any]:
    """Keys of a language model's file, without its tokenizer.

    Args:
        text: the decoder's config with every default.
        architecture: `general.architecture`.

    Raises:
        InputError: llama.cpp computes something else.
    """
    if text.get("hidden_act") != "silu":
        raise InputError(f"llama.cpp's {architecture} has SiLU, and this language model {text.get('hidden_act')}")
    heads, width = int(text["num_attention_heads"]), int(text["hidden_size"])
    head = int(text.get("head_dim") or width // heads)
    found = {
        "block_count": int(text["num_hidden_layers"]),
        "context_length": int(text["max_position_embeddings"]),
        "embedding_length": width,
        "feed_forward_length": int(text["intermediate_size"]),
        "attention.head_count": heads,
        "attention.head_count_kv": int(text.get("num_key_value_heads") or heads),
        "attention.layer_norm_rms_epsilon": float(text["rms_norm_eps"]),
        "attention.key_length": head,
        "attention.value_length": head,
        "vocab_size": int(text["vocab_size"]),
        "rope.dimension_count": head,
        **_rope(_rope_parameters(text), int(text["max_position_embeddings"])),
    }
    return {f"{architecture}.{key}": value for key, value in found.items()}


def rope_tensors(text: Config) -> list[GgufTensor]:
    """The divisors of rotary frequencies that Llama 3 has, where the config asks for them.

    Args:
        text: the decoder's config with every default.
    """
    rope = _rope_parameters(text)
    if rope.get("rope_type") != "llama3":
        return []
    size = int(text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]) // 2
    divisors = _divisors(rope, size)
    return [GgufTensor("rope_freqs.weight", (size,), "F32", lambda: divisors)]


def _rope_parameters(text: Config) -> Mapping[str, Any]:
    found = text.get("rope_parameters") or {}
    return {"rope_theta": text.get("rope_theta", 10000.0), "rope_type": "default", **found}


def _rope(rope: Mapping[str, Any], context: int) -> dict[str, Any]:
    """Of rotary positions: the base, sections of several axes, and how the context was made longer."""
    kind = rope["rope_type"]
    found: dict[str, Any] = {"rope.freq_base": float(rope["rope_theta"])}
    if sections := rope.get("mrope_section"):
        found["rope.dimension_sections"] = [*map(int, sections), *[0] * (_SECTIONS - len(sections))]
    if kind in ("linear", "yarn"):
        found |= {"rope.scaling.type": kind, "rope.scaling.factor": float(rope["factor"])}
    if kind == "yarn":
        if any(rope.get(key) is not None for key in ("attention_factor", "mscale", "mscale_all_dim")):
            raise InputError("llama.cpp is not told this language model's YaRN: it has an attention factor of its own")
        original = int(rope.get("original_max_position_embeddings") or context)
        found["rope.scaling.original_context_length"] = original
    elif kind not in {*_PLAIN, "linear", "llama3"}:
        raise InputError(f"llama.cpp is not told of rotary positions of the type {kind}", next_step="run it with edgeq")
    return found


def _divisors(rope: Mapping[str, Any], size: int) -> NDArray[np.float32]:
    """Of each frequency, float32 [size]: 1 for short waves, the factor for long ones, something between for the rest.

    Source: transformers, modeling_rope_utils.py, `_compute_llama3_parameters`.
    """
    waves = 2 * math.pi * float(rope["rope_theta"]) ** (np.arange(size) / size)
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    original, factor = float(rope["original_max_position_embeddings"]), float(rope["factor"])
    smooth = np.clip((original / waves - low) / (high - low), 0, 1)
    found: NDArray[np.float32] = (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)
    return found
