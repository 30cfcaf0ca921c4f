"""KV cache: published figures, and what transformers' own caches hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from edgeq.errors import ModelError
from edgeq.families.modules import read_vlm
from edgeq.plan.kv import kv_cache
from edgeq.runtime.vlm.cache_name import cache_name
from edgeq.runtime.vlm.kv_cache import read_kv_shape

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "vlm-configs"
EXPECTED: dict[str, dict[str, Any]] = json.loads((GOLDEN / "expected.json").read_text())
TEXT = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.mark.parametrize("name", EXPECTED)
def test_bytes_per_token_of_published_models(name: str) -> None:
    cache = kv_cache(read_vlm(GOLDEN / name).text)
    assert cache.bytes_per_token == EXPECTED[name]["kv_per_tok_fp16"]
    assert cache.cross_bytes_per_token == EXPECTED[name].get("xattn_kv_per_vtok", 0)


def test_llama_keeps_the_images_keys_apart_from_the_texts() -> None:
    """32 of 40 layers attend to the text, 8 to the image: 2 x 8 heads x 128 x 2 bytes each."""
    cache = kv_cache(read_vlm(GOLDEN / "llama-3.2-11b-vision").text)
    assert cache.bytes(1000, 6404) == 4096 * (32 * 1000 + 8 * 6404)


def held(config: Any, tokens: int) -> int:
    """Bytes in transformers' cache after reading `tokens` tokens in FP16, from the tensors themselves."""
    model = transformers.AutoModelForCausalLM.from_config(config).half().eval()
    with torch.no_grad():
        cache = model(torch.ones(1, tokens, dtype=torch.long), use_cache=True)[cache_name(model)]
    return sum(
        tensor.numel() * tensor.element_size() for layer in cache.layers for tensor in (layer.keys, layer.values)
    )


@pytest.mark.parametrize("tokens", [5, 40])
def test_grouped_heads_as_transformers_keeps_them(tokens: int) -> None:
    config = transformers.LlamaConfig(**TEXT, num_hidden_layers=3, vocab_size=50)
    assert kv_cache(config.to_dict()).bytes(tokens, 0) == held(config, tokens)


@pytest.mark.parametrize("tokens", [5, 40])
def test_sliding_windows_as_transformers_keeps_them(tokens: int) -> None:
    """transformers keeps one token less than the window: the new one makes it full."""
    config = transformers.Gemma3TextConfig(
        **TEXT,
        head_dim=16,
        num_hidden_layers=3,
        vocab_size=50,
        sliding_window=16,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    )
    cache = kv_cache(config.to_dict())
    newest = 2 * cache.layer_bytes_per_token if tokens >= 16 else 0
    assert cache.bytes(tokens, 0) - newest == held(config, tokens)


def test_a_slot_has_room_for_the_whole_context_in_every_layer() -> None:
    """As the slots of a real model: one token more than the context, in blocks of 64."""
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    config = transformers.Gemma3TextConfig(
        **TEXT, head_dim=16, num_hidden_layers=3, vocab_size=50, sliding_window=16, layer_types=kinds
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    shape = read_kv_shape(model)
    rows = shape.rows(127)
    assert rows == 128
    halves = shape.dtype.itemsize // 2
    assert kv_cache(config.to_dict()).slot_bytes(rows, 0) * halves == shape.slot_bytes(127)


def test_mistrals_way_to_say_window() -> None:
    text = {**TEXT, "num_hidden_layers": 2, "sliding_window": 10}
    token = 2 * 2 * 16 * 2
    assert kv_cache(text).bytes(1000, 0) == 2 * 10 * token
    assert kv_cache({**text, "use_sliding_window": False}).bytes(1000, 0) == 2 * 1000 * token
    assert kv_cache({**text, "sliding_window": None}).bytes(1000, 0) == 2 * 1000 * token


@pytest.mark.parametrize("changed", [{"hidden_size": None}, {"num_attention_heads": 0}, {"layer_types": ["full"]}])
def test_a_config_that_does_not_say(changed: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="does not say how large its KV cache is"):
        kv_cache({**TEXT, "num_key_value_heads": None, "num_hidden_layers": 2} | changed)
