"""The KV cache: what the language model keeps of every token it has read, in FP16.

A layer keeps a key and a value for each of its KV heads (grouped heads: Ainslie et al. 2023, arXiv 2305.13245). A layer
with a sliding window keeps no more tokens than the window. A cross-attention layer keeps keys and values of the image's
tokens instead of the text's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from edgeq.errors import ModelError

__all__ = ["KvCache", "kv_cache"]

_BYTES: Final = 2
_WINDOWED: Final = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}


class KvCache(BaseModel):
    """What a token costs.

    Attributes:
        bytes_per_token: in all layers that attend to the text, while none has reached the end of its window.
        cross_bytes_per_token: in all cross-attention layers, for each token of an image.
        layers: tokens kept at most (None: all) -> number of layers.
        layer_bytes_per_token: in one layer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes_per_token: int
    cross_bytes_per_token: int
    layer_bytes_per_token: int
    layers: tuple[tuple[int | None, int], ...]

    def slot_bytes(self, context: int, cross_tokens: int) -> int:
        """Bytes of one sequence as `edgeq serve` keeps it: every layer has room for the whole context.

        A layer with a window looks at less of it; its slot is as long as the others', so that a step has one shape.
        """
        layers = sum(count for _, count in self.layers)
        return context * layers * self.layer_bytes_per_token + cross_tokens * self.cross_bytes_per_token

    def bytes(self, context: int, cross_tokens: int) -> int:
        """Bytes for one sequence of `context` tokens and `cross_tokens` image tokens looked at by cross-attention."""
        kept = sum(count * (context if window is None else min(context, window)) for window, count in self.layers)
        return kept * self.layer_bytes_per_token + cross_tokens * self.cross_bytes_per_token


def kv_cache(text: Mapping[str, Any]) -> KvCache:
    """The cache of a language model, from its config with all defaults filled in.

    A layer of a kind that is not known (linear attention, a state space) is counted as full attention: an upper bound.

    Raises:
        ModelError: the config lacks a number.
    """
    try:
        heads = int(text.get("num_key_value_heads") or text["num_attention_heads"])
        width = int(text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"])
        windows = _windows(text)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelError(f"the text config does not say how large its KV cache is: {error}") from error
    token = 2 * heads * width * _BYTES
    return KvCache(
        bytes_per_token=len(windows) * token,
        cross_bytes_per_token=len(text.get("cross_attention_layers") or ()) * token,
        layer_bytes_per_token=token,
        layers=tuple((window, windows.count(window)) for window in dict.fromkeys(windows)),
    )


def _windows(text: Mapping[str, Any]) -> list[int | None]:
    """For each layer that attends to the text, how many tokens it keeps at most; None for all."""
    crossing = set(text.get("cross_attention_layers") or ())
    layers = int(text["num_hidden_layers"])
    kinds = text.get("layer_types") or ["sliding_attention" if _slides(text) else "full_attention"] * layers
    if len(kinds) != layers:
        raise ValueError(f"{len(kinds)} layer_types for {layers} layers")
    return [text.get(_WINDOWED.get(kind, "")) for index, kind in enumerate(kinds) if index not in crossing]


def _slides(text: Mapping[str, Any]) -> bool:
    """Whether a config without layer types has a window in force (Mistral's way of saying it)."""
    return text.get("sliding_window") is not None and text.get("use_sliding_window") is not False
