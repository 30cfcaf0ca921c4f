"""Attention of one token in each slot: which kernel takes the mask, how long it takes by rows and slots, and whether
the bits stay the same when hidden rows, or other slots, are left out.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.gpu_check.findings import Finding, Scale, milliseconds
from edgeq.runtime.vlm.attention import attend

__all__ = ["attention"]

_SLOTS, _WIDTH = 4, 128
_HEADS = ((32, 32), (32, 8))
"""Heads of queries and of keys: LLaVA-1.5-7B's, and Mistral's."""


def attention(scale: Scale) -> Iterator[Finding]:
    """A finding for each kind of heads."""
    rows = (64, 128) if scale.tiny else (704, 1088, 2112)
    for heads, keys in ((4, 2),) if scale.tiny else _HEADS:
        yield _heads(scale, heads, keys, rows)


def _heads(scale: Scale, heads: int, keys: int, rows: tuple[int, ...]) -> Finding:
    device, most = scale.device, rows[-1]
    dtype = torch.float32 if scale.tiny else torch.float16
    torch.manual_seed(0)
    store = torch.randn(2, _SLOTS, most, keys, _WIDTH, device=device, dtype=dtype)
    key, value = store.transpose(2, 3)
    query = torch.randn(_SLOTS, heads, 1, _WIDTH, device=device, dtype=dtype)
    mask = torch.full((_SLOTS, 1, 1, most), float("-inf"), device=device, dtype=dtype)
    mask[..., : rows[0] - 8] = 0

    def look(slots: int, seen: int) -> torch.Tensor:
        part = slice(slots), slice(None), slice(seen)
        return attend(None, query[:slots], key[part], value[part], mask[:slots, ..., :seen])[0]

    with torch.inference_mode():
        whole = look(_SLOTS, most)
        cases = {
            f"{slots} x {seen}": {
                "ms": milliseconds(lambda: look(slots, seen), device),  # noqa: B023
                "same_bits": bool(torch.equal(look(slots, seen), whole[:slots])),
            }
            for slots in (1, _SLOTS)
            for seen in rows
        }
    found: Finding = {"heads": heads, "key_heads": keys, "cases": cases, "fine": bool(whole.isfinite().all())}
    return found if scale.tiny else found | {"efficient": _efficient(query, key, value, mask)}


def _efficient(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> bool | str:
    """Whether the memory-efficient kernel takes it; or why that is not known."""
    groups = query.reshape(len(query), key.shape[1], -1, query.shape[3])
    try:
        asked = torch.backends.cuda.SDPAParams(groups, key, value, mask, 0.0, False, False)
        return bool(torch.backends.cuda.can_use_efficient_attention(asked, True))
    except TypeError as error:  # another release of torch takes other arguments
        return str(error)[:200]
