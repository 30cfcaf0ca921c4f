"""Attention of one token in each slot over that slot's keys and values, which are neither copied nor converted.

Where query heads share a key head (grouped heads: Ainslie et al. 2023, arXiv 2305.13245), the queries of a group are
taken as rows of one matrix, instead of repeating keys and values for each: that would read and write the whole cache
again at each step. Keys and values may have another type than the model computes in: a CPU has no quick attention in
FP16. There each slot looks at its own tokens alone, however long the context is; a GPU looks at all rows through a
mask, because a graph of its kernels has fixed shapes. Either way what a slot gets depends on that slot alone.

Needs torch and transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

__all__ = ["ATTENTION", "Seen", "attend", "attention_windows", "look", "look_apart", "seen_by_slots"]

ATTENTION: Final = "edgeq_slots"
"""Its name among the attention functions of transformers."""

_FULL: Final = "full_attention"
_SLIDING: Final = "sliding_attention"
Seen = Sequence[tuple[slice, slice]]
"""Slots, each with its tokens that are seen."""

_ROWS: Final = 256
"""Tokens whose capped scores are in memory at once."""


def attention_windows(config: Any) -> Mapping[str, int | None]:
    """How far back each kind of layer sees: name of the kind -> tokens, itself included; None for all.

    Args:
        config: of a language model.
    """
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if not kinds:
        slides = window is not None and getattr(config, "use_sliding_window", True)
        kinds = (_SLIDING if slides else _FULL,)
    return {kind: window if kind == _SLIDING else None for kind in sorted(set(kinds))}


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
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
        softcap: what scores come near to and never reach; None where they are not capped.
        sliding_window: tokens that the layer sees, itself included; a mask says it already.
        slot_tokens: of a step, how many tokens each slot has, so that no mask is needed; None where the mask says it.
        kwargs: what else transformers passes on.

    Returns:
        [batch, n, heads, width] in the dtype of `query`, and no weights.
    """
    given = query.to(key.dtype)
    if query.shape[2] > 1:
        found = _read(module, given, key, value, attention_mask, scaling, softcap, kwargs)
    elif slot_tokens is None or attention_mask is not None:
        found = look(given, key, value, attention_mask, scaling, softcap)
    else:
        found = look_apart(given, key, value, seen_by_slots(slot_tokens, sliding_window), scaling, softcap)
    return found.to(query.dtype), None


def seen_by_slots(slot_tokens: Sequence[int], window: int | None) -> Seen:
    """Each slot, and its tokens that a layer sees.

    Args:
        slot_tokens: how many tokens each slot has.
        window: how far back the layer sees; None for all.
    """
    return [
        (slice(slot, slot + 1), slice(0 if window is None else max(0, tokens - window), tokens))
        for slot, tokens in enumerate(slot_tokens)
    ]


def _read(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    softcap: float | None,
    kwargs: Mapping[str, Any],
) -> torch.Tensor:
    """Attention of several tokens, [batch, n, heads, width] in the dtype of `key`."""
    if softcap is not None:
        return _read_capped(query, key, value, mask, scaling, softcap)
    # A CPU needs no copy of keys and values for each head that shares them;
    # a GPU has no quick kernel for that with a mask.
    if key.device.type == "cpu":
        found = scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=True
        )
        return found.transpose(1, 2)
    read: torch.Tensor = sdpa_attention_forward(module, query, key, value, mask, scaling=scaling, **kwargs)[0]
    return read


def _read_capped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    softcap: float,
) -> torch.Tensor:
    """Some tokens after the others: no kernel caps scores, so that all of them are in memory."""
    count, known = query.shape[2], key.shape[2]
    if mask is None:
        mask = torch.ones(1, 1, count, known, dtype=torch.bool, device=key.device).tril(known - count)
    parts = [slice(start, start + _ROWS) for start in range(0, count, _ROWS)]
    found = [_capped(query[:, :, part], key, value, mask[:, :, part], scaling, softcap) for part in parts]
    return torch.cat(found, dim=2).transpose(1, 2)


def look_apart(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    slots: Seen,
    scaling: float | None,
    softcap: float | None = None,
) -> torch.Tensor:
    """As `look`, each slot at its own tokens.

    A step of a small model is hundreds of short operators: what can be done for all slots is not done for each.

    Args:
        query, key, value, scaling, softcap: as for `look`.
        slots: what each sees.

    Returns:
        [slots, 1, heads, width] in the dtype of `key`.
    """
    if softcap is not None:
        return torch.cat(
            [look(query[at], key[at, :, seen], value[at, :, seen], None, scaling, softcap) for at, seen in slots]
        )
    groups = query.reshape(query.shape[0], key.shape[1], -1, query.shape[3])
    found = [
        scaled_dot_product_attention(groups[at], key[at, :, seen], value[at, :, seen], scale=scaling)
        for at, seen in slots
    ]
    return torch.cat(found).reshape(query.shape[0], 1, query.shape[1], -1)


def look(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    softcap: float | None = None,
) -> torch.Tensor:
    """Attention of one token in each of a batch.

    Args:
        query: [batch, heads, 1, width] in the dtype of `key`.
        key, value, mask, scaling, softcap: as for `attend`.

    Returns:
        [batch, 1, heads, width] in the dtype of `key`.
    """
    batch, heads = query.shape[:2]
    if softcap is not None:
        found = _capped(query, key, value, mask, scaling, softcap)
    else:
        groups = query.reshape(batch, key.shape[1], -1, query.shape[3])
        found = scaled_dot_product_attention(groups, key, value, attn_mask=mask, scale=scaling)
    return found.reshape(batch, 1, heads, -1)


def _capped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    softcap: float,
) -> torch.Tensor:
    """Attention whose scores are capped before the mask (Gemma 2, arXiv 2408.00118), [batch, heads, n, width]."""
    batch, heads, count, width = query.shape
    rows = query.reshape(batch, key.shape[1], -1, width) * (width**-0.5 if scaling is None else scaling)
    scores = torch.tanh(rows @ key.mT / softcap) * softcap
    scores = scores.reshape(batch, heads, count, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype is torch.bool else scores + mask
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
    found = weights.reshape(batch, key.shape[1], heads // key.shape[1] * count, -1) @ value
    return found.reshape(batch, heads, count, -1)


AttentionInterface.register(ATTENTION, attend)
