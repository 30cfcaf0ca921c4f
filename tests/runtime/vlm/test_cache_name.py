"""What the installed transformers calls keys and values; a warning of the other name would fail these tests."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from accelerate.hooks import ModelHook, add_hook_to_module
from vlm import TEXT

from edgeq.runtime.vlm.cache_name import cache_name

MODELS = {"llama": transformers.LlamaForCausalLM, "mistral": transformers.MistralForCausalLM}


def small(name: str) -> Any:
    torch.manual_seed(0)
    return MODELS[name](MODELS[name].config_class(**TEXT)).eval()


@pytest.mark.parametrize("name", MODELS)
def test_what_comes_out_goes_in_again(name: str) -> None:
    model, ids = small(name), torch.tensor([[5, 7, 9]])
    with torch.inference_mode():
        first = model(input_ids=ids[:, :2], use_cache=True)
        rest = model(input_ids=ids[:, 2:], use_cache=True, **{cache_name(model): first[cache_name(model)]})
        whole = model(input_ids=ids, use_cache=False)
    torch.testing.assert_close(rest.logits[:, -1], whole.logits[:, -1])
    assert first[cache_name(model)].get_seq_length() == 3


def test_it_changed_with_release_5_24() -> None:
    major, minor = transformers.__version__.split(".")[:2]
    assert cache_name(small("llama")) == ("cache" if (int(major), int(minor)) >= (5, 24) else "past_key_values")


def test_the_part_below_the_head_and_a_model_with_a_hook_have_the_same() -> None:
    model = small("llama")
    name = cache_name(model)
    assert cache_name(model.base_model) == name
    assert cache_name(add_hook_to_module(model, ModelHook())) == name
