"""A step's layers in fewer operators, against those of transformers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers
from language_halves import LongPrompt, pieces, tiny_half, words
from vlm import TEXT

from edgeq.runtime.vlm.decode_step import DecodeStep, StepOptions
from edgeq.runtime.vlm.step import fused_layers
from edgeq.runtime.vlm.step.shapes import StepShape

FORMS = ("llama", "mistral", "qwen2", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""With biases and without, windows and without, positions of several axes, and norms of heads."""


def logits(model: Any, options: StepOptions) -> list[torch.Tensor]:
    """Of three steps of two answers."""
    step = DecodeStep(copy.deepcopy(model), slots=2, context=40, options=options)
    assert step.fused == (options.fused and model.config.model_type != "granite")
    for slot, count in enumerate((5, 14)):
        (piece,) = pieces(model, LongPrompt(words(count, count)))
        step.read(piece, slot)
        step.occupy(slot, 3 + slot, count, count)
    found = []
    for _ in range(3):
        found.append(step.forward().clone())
        step.advance(found[-1].argmax(-1))
    return found


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("name", FORMS)
def test_the_bits_are_those_of_transformers(name: str, dtype: torch.dtype, masked: bool) -> None:
    model = tiny_half(name).to(dtype)
    ours, theirs = (logits(model, StepOptions(fused=fused, masked=masked)) for fused in (True, False))
    assert all(map(torch.equal, ours, theirs))


def test_a_model_of_the_same_parts_that_computes_something_else() -> None:
    """Granite multiplies what a layer adds; so does nothing that its parts are called."""
    torch.manual_seed(0)
    model = transformers.GraniteForCausalLM(transformers.GraniteConfig(**TEXT, residual_multiplier=0.5)).eval()
    ours, theirs = (logits(model, StepOptions(fused=fused)) for fused in (True, False))
    assert all(map(torch.equal, ours, theirs))


def test_queries_that_grow_with_their_position_are_left_to_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ministral 3's parts are Mistral's, and near positions tell nothing: its class does, and so do far ones."""
    rope = {"type": "default", "rope_type": "default", "rope_theta": 10_000.0, "llama_4_scaling_beta": 0.5}
    config = transformers.Ministral3Config(**TEXT, rope_parameters={**rope, "original_max_position_embeddings": 256})
    torch.manual_seed(0)
    model = transformers.Ministral3ForCausalLM(config).eval()
    assert not DecodeStep(model, slots=2, context=400).fused
    monkeypatch.setattr(fused_layers, "_WRITTEN_FOR", fused_layers._WRITTEN_FOR | {"Ministral3Attention"})
    assert not DecodeStep(model, slots=2, context=400).fused
    assert DecodeStep(model, slots=2, context=40).fused  # no sequence gets as far as that


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "mllama"])
def test_other_forms_are_left_to_transformers(name: str) -> None:
    assert not DecodeStep(tiny_half(name), slots=2, context=40).fused


@pytest.mark.parametrize(("slots", "invariant", "rows"), [(4, True, 2), (4, False, 1), (1, True, 1)])
def test_a_head_has_two_rows_where_one_must_have_the_bits_that_it_has_in_company(
    slots: int, invariant: bool, rows: int
) -> None:
    model = tiny_half("llama")
    step = DecodeStep(model, slots=slots, context=40, options=StepOptions(batch_invariant=invariant))
    (piece,) = pieces(model, LongPrompt(words(5, 5)))
    step.read(piece, 0)
    step.occupy(0, 3, 5, 5)
    seen: list[int] = []
    model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    step.shapes = (StepShape(1, step.cache.rows),)
    assert len(step.forward()) == 1
    assert seen == [rows]
