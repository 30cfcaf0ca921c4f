"""Language halves that AutoModelForCausalLM does not know: their decoder is given a head, here and on the device."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from vlm import FAMILIES, IMAGE_TOKEN, TEXT, in_four_bits

from edgeq.errors import ModelError
from edgeq.families.causal import causal_class
from edgeq.families.modules import read_modules
from edgeq.plan.rules import plan_modules
from edgeq.quantize.language.source import language_plan, open_language
from edgeq.quantize.nf4.skip_list import verify_modules
from edgeq.quantize.nf4.write import write_nf4
from edgeq.runtime.vlm.cache_name import cache_name
from edgeq.runtime.vlm.language import _model_class

ROPE = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}
VISION = {
    "depth": 2,
    "hidden_size": 32,
    "out_hidden_size": 64,
    "num_heads": 2,
    "patch_size": 14,
    "intermediate_size": 64,
}


def qwen2_5_vl(*, tied: bool) -> Any:
    return transformers.Qwen2_5_VLConfig(
        vision_config={**VISION, "fullatt_block_indexes": [1]},
        text_config={**TEXT, "rope_parameters": ROPE},
        image_token_id=IMAGE_TOKEN,
        tie_word_embeddings=tied,
    )


def qwen3_vl(*, tied: bool) -> Any:
    return transformers.Qwen3VLConfig(
        vision_config={**VISION, "deepstack_visual_indexes": [0], "num_position_embeddings": 16},
        text_config={**TEXT, "head_dim": 16, "rope_parameters": ROPE},
        image_token_id=IMAGE_TOKEN,
        tie_word_embeddings=tied,
    )


def qwen3_vl_moe() -> Any:
    experts = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
    return transformers.Qwen3VLMoeConfig(
        vision_config={**VISION, "deepstack_visual_indexes": [0], "num_position_embeddings": 16},
        text_config={**TEXT, "head_dim": 16, "rope_parameters": ROPE, **experts},
        image_token_id=IMAGE_TOKEN,
        tie_word_embeddings=False,
    )


WHOLE: Mapping[str, Callable[[], Any]] = {
    "qwen2_vl": FAMILIES["qwen2_vl"],
    "qwen2_5_vl": lambda: qwen2_5_vl(tied=False),
    "qwen2_5_vl, tied": lambda: qwen2_5_vl(tied=True),
    "qwen3_vl": lambda: qwen3_vl(tied=False),
    "qwen3_vl, tied": lambda: qwen3_vl(tied=True),
    "qwen3_vl_moe": qwen3_vl_moe,
}


def written(directory: Path, name: str, *, hub: bool = False) -> Path:
    torch.manual_seed(0)
    model = transformers.AutoModelForImageTextToText.from_config(WHOLE[name]()).half()
    model.save_pretrained(directory, save_original_format=hub)
    return directory


def quantized(source: Path) -> Path:
    target = source.with_name(f"{source.name}.nf4")
    write_nf4(source, plan_modules(read_modules(source)), target)
    return target


def loaded(directory: Path) -> Any:
    return _model_class(directory).from_pretrained(directory, device_map={"": "cpu"}, dtype="auto").eval()


@pytest.mark.parametrize("name", WHOLE)
def test_logits_are_those_of_the_whole_model_in_four_bits(tmp_path: Path, name: str) -> None:
    source = written(tmp_path / "whole", name)
    model, whole = loaded(quantized(source)), in_four_bits(source).eval()
    verify_modules(model, language_plan(plan_modules(read_modules(source)), open_language(source)))
    ids, cache = torch.from_numpy(np.random.default_rng(0).integers(3, IMAGE_TOKEN, (1, 11))), cache_name(model)
    with torch.inference_mode():
        found = model(input_ids=ids, use_cache=True)
        assert torch.equal(found.logits, whole(input_ids=ids).logits)
        assert torch.equal(model(input_ids=ids, logits_to_keep=1).logits, found.logits[:, -1:])
        behind = model(input_ids=ids[:, :1], **{cache: getattr(found, cache)})
    assert behind.logits.shape == (1, 1, 96)
    assert getattr(found, cache).get_seq_length() == 12
    assert model.lm_head.weight.dtype == torch.float16
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is name.endswith("tied")


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl, tied"])
def test_names_of_the_hub_give_the_same(tmp_path: Path, name: str) -> None:
    one, other = (loaded(quantized(written(tmp_path / str(hub), name, hub=hub))) for hub in (False, True))
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_the_checkpoint_names_a_class_of_transformers(tmp_path: Path) -> None:
    """Which loads all of it but the head."""
    target = quantized(written(tmp_path / "whole", "qwen3_vl"))
    config = json.loads((target / "config.json").read_text())
    assert (config["architectures"], config["model_type"]) == (["Qwen3VLTextModel"], "qwen3_vl_text")
    ids = torch.arange(3, 12)[None]
    with torch.inference_mode():
        theirs = transformers.Qwen3VLTextModel.from_pretrained(target)(input_ids=ids).last_hidden_state
        assert torch.equal(loaded(target).model(input_ids=ids).last_hidden_state, theirs)


def test_one_with_a_head_is_left_as_it_is() -> None:
    assert causal_class("MllamaForCausalLM") is transformers.MllamaForCausalLM


@pytest.mark.parametrize("name", ["", "AutoTokenizer", "NoSuchModel"])
def test_what_is_no_model(name: str) -> None:
    with pytest.raises(ModelError, match="is no model of transformers"):
        causal_class(name)
