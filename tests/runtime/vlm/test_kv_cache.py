"""The slots of a step: what is written where, what is seen, and which models cannot be served so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import transformers
from vlm import TEXT

from edgeq.errors import ModelError
from edgeq.runtime.vlm.kv_cache import KvShape, SlotCache, check_served, read_kv_shape

SHAPE = KvShape(layers=2, heads=2, width=3, dtype=torch.float32, device=torch.device("cpu"))


def llama(**changed: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**{**TEXT, **changed})
    return transformers.LlamaForCausalLM(config).eval()


def numbered(batch: int, tokens: int, start: float) -> torch.Tensor:
    """Keys or values [batch, 2, tokens, 3], each number another one."""
    return torch.arange(start, start + batch * 2 * tokens * 3).reshape(batch, 2, tokens, 3)


def test_bytes_by_hand() -> None:
    """2 of keys and values x 2 layers x 2 heads x 3 numbers x 4 bytes; 64 rows for up to 63 tokens, 128 from 64 on."""
    assert SHAPE.token_bytes == 96
    assert SHAPE.slot_bytes(1) == SHAPE.slot_bytes(63) == 64 * 96
    assert SHAPE.slot_bytes(64) == 128 * 96
    assert SlotCache(SHAPE, slots=3, context=63).bytes == 3 * 64 * 96


def test_the_shape_is_read_from_the_model() -> None:
    shape = read_kv_shape(llama(num_hidden_layers=3).half())
    assert (shape.layers, shape.heads, shape.width) == (3, 2, 16)
    assert shape.dtype == torch.float32, "on a CPU"


def test_a_prompt_is_written_piece_by_piece_into_its_slot() -> None:
    cache = SlotCache(SHAPE, slots=2, context=10)
    first, rest = numbered(1, 4, 0), numbered(1, 2, 100)
    cache.aim_at(1, 0)
    keys, values = cache.update(first, -first, layer_idx=1)
    assert torch.equal(keys, first)
    assert torch.equal(values, -first)
    cache.aim_at(1, 4)
    keys, values = cache.update(rest, -rest, layer_idx=1)
    assert torch.equal(keys, torch.cat([first, rest], 2))
    assert torch.equal(values, -keys)
    assert cache.get_seq_length() == 4
    assert cache.get_mask_sizes(2, 0) == (6, 0)


def test_a_step_writes_one_token_into_each_slot_and_shows_all_rows() -> None:
    cache = SlotCache(SHAPE, slots=2, context=10)
    cache.aim_at(1, 0)
    prompt = numbered(1, 3, 0)
    cache.update(prompt, prompt, layer_idx=0)
    cache.at[1] += 3
    cache.aim_at_first(2, 64)
    new = numbered(2, 1, 500)
    keys, values = cache.update(new, -new, layer_idx=0)
    assert keys.shape == (2, 2, 64, 3)
    assert torch.equal(keys[0, :, :1], new[0])
    assert torch.equal(keys[1, :, :4], torch.cat([prompt[0], new[1]], 1))
    assert torch.equal(values[1, :, 3:4], -new[1])
    assert (keys[:, :, 4:] == 0).all()
    assert cache.get_mask_sizes(1, 0) == (64, 0)


def test_keys_and_values_written_together_are_those_written_apart() -> None:
    """Into the first two of three slots, of which the first four rows are looked at."""
    new = numbered(2, 1, 500)
    apart, together = (SlotCache(SHAPE, slots=3, context=10) for _ in range(2))
    for cache in (apart, together):
        cache.at += torch.tensor([3, 1, 0])
        cache.aim_at_first(2, 4)
    expected = apart.update(new, -new, layer_idx=1)
    found = together.put(1, torch.cat([new, -new], 1)[:, :, 0].float())
    assert found[0].shape == found[1].shape == (2, 2, 4, 3)
    assert all(map(torch.equal, found, expected))
    assert all(torch.equal(together.copy_out(slot, 0, 64).rows, apart.copy_out(slot, 0, 64).rows) for slot in range(3))


def test_a_sequence_that_moves() -> None:
    cache = SlotCache(SHAPE, slots=3, context=10)
    cache.fill(3, 6, seed=1)
    before = [cache.copy_out(slot, 0, 64).rows for slot in range(3)]
    assert all(rows[:, :, :6].all() and not rows[:, :, 6:].any() for rows in before)
    cache.move(2, 0, tokens=4)
    after = [cache.copy_out(slot, 0, 64).rows for slot in range(3)]
    assert torch.equal(after[0][:, :, :4], before[2][:, :, :4])
    assert torch.equal(after[0][:, :, 4:], before[0][:, :, 4:])
    assert torch.equal(after[1], before[1])
    assert not after[2][:, :, :4].any(), "what was NaN would be seen through a mask by the next one"
    assert torch.equal(after[2][:, :, 4:], before[2][:, :, 4:])


def test_what_is_copied_out_of_a_slot_can_be_put_into_another() -> None:
    cache = SlotCache(SHAPE, slots=2, context=10)
    cache.aim_at(0, 0)
    for layer in range(2):
        cache.update(numbered(1, 5, 10 * layer), numbered(1, 5, 90 * layer), layer_idx=layer)
    first, second = cache.copy_out(0, 0, 2), cache.copy_out(0, 2, 3)
    assert (first.nbytes, second.nbytes) == (2 * SHAPE.token_bytes, SHAPE.token_bytes)
    cache.clear(0)
    assert not cache.copy_out(0, 0, 5).rows.any()
    cache.copy_in(1, 0, first)
    cache.copy_in(1, 2, second)
    cache.aim_at(1, 3)
    keys, values = cache.update(numbered(1, 1, 7), numbered(1, 1, 8), layer_idx=1)
    assert torch.equal(keys[:, :, :3], numbered(1, 5, 10)[:, :, :3])
    assert torch.equal(values[:, :, :3], numbered(1, 5, 90)[:, :, :3])


REFUSED: Mapping[str, tuple[dict[str, Any], str]] = {
    "chunks": ({"layer_types": ["full_attention", "chunked_attention"]}, "layers of chunked_attention"),
    "angles by length": (
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
        "depend on the longest sequence",
    ),
    "angles by length in layers of one kind": (
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "longrope"},
                "sliding_attention": {"rope_type": "default"},
            }
        },
        "depend on the longest sequence",
    ),
    "experts": ({"num_local_experts": 4}, "depends on the rest of the batch"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_cannot_be_served_in_slots(name: str) -> None:
    changed, reason = REFUSED[name]
    model = llama()
    check_served(model)
    for key, value in changed.items():
        setattr(model.config, key, value)
    with pytest.raises(ModelError, match="cannot be served with several requests at once") as refused:
        check_served(model)
    assert reason in refused.value.causes[0]


def test_a_model_that_keeps_something_else() -> None:
    config = transformers.MambaConfig(vocab_size=96, hidden_size=16, state_size=4, num_hidden_layers=1)
    with pytest.raises(ModelError) as refused:
        read_kv_shape(transformers.MambaForCausalLM(config))
    assert "do not all keep keys and values" in refused.value.causes[0]
