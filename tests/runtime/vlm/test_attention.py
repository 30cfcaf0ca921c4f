"""Attention as language models call it: by the formula, and in the parts that a long prompt is taken in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

from edgeq.runtime.vlm import attention
from edgeq.runtime.vlm.attention import attend, attention_windows


@pytest.mark.parametrize("softcap", [None, 0.8])
@pytest.mark.parametrize("count", [1, 5])
def test_attention_by_the_formula(count: int, softcap: float | None) -> None:
    """Softmax of scaled scores in float64, capped or not, with query head h looking at key head h // 2."""
    draw = torch.Generator().manual_seed(0)
    query = torch.randn(3, 4, count, 8, generator=draw)
    key, value = (torch.randn(3, 2, 7, 8, generator=draw) for _ in range(2))
    seen = torch.ones(count, 7, dtype=torch.bool).tril(2)
    mask = torch.zeros(1, 1, count, 7).masked_fill(~seen, float("-inf"))
    module = torch.nn.Module()
    module.num_key_value_groups = 2  # type: ignore[assignment]
    found, _ = attend(module, query.half(), key, value, mask, scaling=0.3, softcap=softcap)
    of_bool, _ = attend(module, query.half(), key, value, seen[None, None], scaling=0.3, softcap=softcap)
    assert torch.equal(of_bool, found)
    expected = np.zeros((3, count, 4, 8))
    for batch, row, head in np.ndindex(3, count, 4):
        scores = key[batch, head // 2].double() @ query[batch, head, row].half().double() * 0.3
        scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
        weights = torch.where(seen[row], scores, -torch.inf).exp().numpy()
        expected[batch, row, head] = weights / weights.sum() @ value[batch, head // 2].double().numpy()
    assert found.dtype == torch.float16
    if count == 1:
        shorter, _ = attend(module, query.half(), key, value, None, scaling=0.3, softcap=softcap, slot_tokens=(3, 3, 3))
        assert np.abs(shorter.double().numpy() - expected).max() < 2e-3, "the same tokens, without a mask"
    assert np.abs(found.double().numpy() - expected).max() < 2e-3


@pytest.mark.parametrize("softcap", [None, 0.8])
def test_a_slot_looks_back_as_far_as_its_layer_does(softcap: float | None) -> None:
    """Slots of 2, 4 and 7 tokens and a window of 4, against attention over those tokens alone."""
    draw = torch.Generator().manual_seed(1)
    query = torch.randn(3, 4, 1, 8, generator=draw)
    key, value = (torch.randn(3, 2, 9, 8, generator=draw) for _ in range(2))
    found, _ = attend(
        torch.nn.Module(), query, key, value, None, softcap=softcap, sliding_window=4, slot_tokens=(2, 4, 7)
    )
    for slot, seen in enumerate((slice(0, 2), slice(0, 4), slice(3, 7))):
        one = slice(slot, slot + 1)
        alone, _ = attend(torch.nn.Module(), query[one], key[one, :, seen], value[one, :, seen], None, softcap=softcap)
        assert torch.equal(found[one], alone)


def test_a_long_prompt_with_capped_scores_is_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(2)
    query, key, value = (torch.randn(1, heads, 11, 8, generator=draw) for heads in (4, 2, 2))
    mask = torch.randint(0, 2, (1, 1, 11, 11), generator=draw).bool() | torch.eye(11, dtype=torch.bool)
    whole = [attend(torch.nn.Module(), query, key, value, seen, softcap=0.8)[0] for seen in (None, mask)]
    monkeypatch.setattr(attention, "_ROWS", 4)
    parts = [attend(torch.nn.Module(), query, key, value, seen, softcap=0.8)[0] for seen in (None, mask)]
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(whole, parts, strict=True))


def test_how_far_back_layers_see() -> None:
    kinds = ["sliding_attention", "full_attention"]
    assert attention_windows(transformers.LlamaConfig()) == {"full_attention": None}
    assert attention_windows(transformers.MistralConfig(sliding_window=8)) == {"sliding_attention": 8}
    assert attention_windows(transformers.MistralConfig(sliding_window=None)) == {"full_attention": None}
    assert attention_windows(transformers.Qwen2Config(sliding_window=8)) == {"full_attention": None}
    two = transformers.Gemma3TextConfig(num_hidden_layers=2, layer_types=kinds, sliding_window=8)
    assert attention_windows(two) == {"full_attention": None, "sliding_attention": 8}
