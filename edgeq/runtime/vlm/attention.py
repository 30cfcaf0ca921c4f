"""Attention of one token in each slot over that slot's keys and values, which are neither copied nor converted.

Where query heads share a key head (grouped heads: Ainslie et al. 2023, arXiv 2305.13245), the queries of a group are
taken as rows of one matrix, instead of repeating keys and values for each: that would read and write the whole cache
again at each step. Keys and values may have another type than the model computes in: a CPU has no quick attention in
FP16. There each slot looks at its own tokens alone, however long the context is; a GPU looks at all rows through a
mask, because a graph of its kernels has fixed shapes. Either way what a slot gets depends on that slot alone.

Needs torch and transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

__all__ = ["ATTENTION", "attend"]

ATTENTION: Final = "edgeq_slots"
"""Its name among the attention functions of transformers."""


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    slot_tokens: Sequence[int] | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """As the attention functions of transformers take it.

    Args:
        module: the attention layer.
        query: [batch, heads, n, width].
        key: [batch, key heads, m, width].
        value: as `key`.
        attention_mask: [batch or 1, 1, n, m], added to the scores in the type of `key`, or of bool (True is seen); None
            for n tokens that each see those before it, or one that sees all.
        scaling: of the scores.
        slot_tokens: of a step, how many tokens each slot has, so that no mask is needed; None where the mask says it.
        kwargs: what else transformers passes on.

    Returns:
        [batch, n, heads, width] in the dtype of `query`, and no weights.
    """
    batch, heads, count, width = query.shape
    # A CPU needs no copy of keys and values for each head that shares them;
    # a GPU has no quick kernel for that with a mask.
    if count > 1 and key.device.type == "cpu":
        found = scaled_dot_product_attention(
            query.to(key.dtype),
            key,
            value,
            attn_mask=attention_mask,
            is_causal=attention_mask is None,
            scale=scaling,
            enable_gqa=True,
        )
        return found.transpose(1, 2).to(query.dtype), None
    if count > 1:
        read, _ = sdpa_attention_forward(
            module, query.to(key.dtype), key, value, attention_mask, scaling=scaling, **kwargs
        )
        return read.to(query.dtype), None
    groups = query.reshape(batch, key.shape[1], -1, width).to(key.dtype)
    if slot_tokens is None:
        found = scaled_dot_product_attention(groups, key, value, attn_mask=attention_mask, scale=scaling)
    else:
        slots = [(slice(slot, slot + 1), tokens) for slot, tokens in enumerate(slot_tokens)]
        found = torch.cat(
            [
                scaled_dot_product_attention(groups[at], key[at, :, :tokens], value[at, :, :tokens], scale=scaling)
                for at, tokens in slots
            ]
        )
    return found.reshape(batch, 1, heads, -1).to(query.dtype), None


AttentionInterface.register(ATTENTION, attend)
