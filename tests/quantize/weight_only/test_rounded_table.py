"""Embeddings and heads in INT8: what is rounded, what AWQ's prompts are given, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from vlm import write_vlm

from edgeq.errors import QuantizeError
from edgeq.families.modules import read_modules
from edgeq.model.checkpoint.packed_weights import WeightScheme, unpack_integers
from edgeq.plan.precision import Precision, PrecisionPlan, Rule
from edgeq.plan.rules import plan_modules
from edgeq.quantize.language.source import language_plan, open_language
from edgeq.quantize.weight_only.table import as_rounded, round_table
from edgeq.quantize.weight_only.verify import verify_packed
from edgeq.quantize.weight_only.write import write_packed

CHANNELS = WeightScheme(8, None)


def planned(source: Path, language: Precision) -> PrecisionPlan:
    return plan_modules(read_modules(source), language=language, embeddings=Precision.INT8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_each_number_is_half_a_step_away_at_most(dtype: torch.dtype) -> None:
    """Rows of many sizes, more than are rounded at once; a row's largest number may be a bit further."""
    draw = torch.Generator().manual_seed(0)
    table = (torch.randn(5000, 8, generator=draw) * torch.logspace(-2, 1, 5000)[:, None]).to(dtype)
    rounded = round_table(table, CHANNELS)
    scales = rounded.scales.float()
    assert rounded.scales.dtype == dtype
    assert torch.equal(scales.bfloat16().float(), scales), "as the kernel has them"
    error = (rounded.values.float() * scales - table.float()).abs()
    assert (error <= (0.5 + 127.5 * 2**-8) * scales).all()
    assert (error.median(1).values <= 0.5 * scales[:, 0]).all()
    assert torch.equal(as_rounded(table, CHANNELS), (rounded.values.float() * scales).to(dtype))
    assert as_rounded(table, None) is table


def test_rows_of_zeros_stay_zeros() -> None:
    """As those with which vocabularies are filled up."""
    table = torch.zeros(3, 4, dtype=torch.float16)
    table[1] = torch.tensor([0.5, -1.0, 0.25, 0.0])
    found = as_rounded(table, CHANNELS)
    assert torch.equal(found[[0, 2]], table[[0, 2]])
    assert (found[1] - table[1]).abs().max() < 0.01


def test_a_table_of_mllama_is_longer_than_its_head(tmp_path: Path) -> None:
    """The embedding has 8 rows more than there are words: all of them are kept."""
    source = write_vlm(tmp_path / "model", "mllama")
    write_packed(source, planned(source, Precision.INT4), tmp_path / "made", precision=Precision.INT4)
    found, weights = (load_file(directory / "model.safetensors") for directory in (tmp_path / "made", source))
    language = open_language(source)
    for layer, rows in (("model.embed_tokens", 104), ("lm_head", 96)):
        rounded = round_table(weights[language.tensors[f"{layer}.weight"].name], CHANNELS)
        assert found[f"{layer}.weight_shape"].tolist() == [rows, 64]
        assert torch.equal(unpack_integers(found[f"{layer}.weight_packed"], 8), rounded.values)
        assert torch.equal(found[f"{layer}.weight_scale"], rounded.scales)


@pytest.mark.parametrize("family", ["llava", "paligemma"])
def test_prompts_of_awq_are_given_what_the_embedding_will_be(family: str, tmp_path: Path) -> None:
    source, given = write_vlm(tmp_path / "model", family), list[torch.Tensor]()
    words = torch.arange(3, 20)[None]

    def prompts(model: Any) -> None:
        given.append(model.get_input_embeddings()(words))
        model(inputs_embeds=given[-1])

    plan = planned(source, Precision.INT4)
    write_packed(source, plan, tmp_path / "made", precision=Precision.INT4, prompts=prompts)
    found = load_file(tmp_path / "made" / "model.safetensors")
    integers = unpack_integers(found["model.embed_tokens.weight_packed"], 8)[words]
    scaled = integers.half() * found["model.embed_tokens.weight_scale"][words]
    factor = {"llava": 1.0, "paligemma": 8.0}[family]  # of Gemma, the root of 64
    assert torch.equal(given[0], factor * scaled)


def without_scales(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["model.embed_tokens.weight_scale"]


def as_floats(tensors: dict[str, torch.Tensor]) -> None:
    for part in ("packed", "scale", "shape"):
        del tensors[f"lm_head.weight_{part}"]
    tensors["lm_head.weight"] = torch.zeros(96, 64, dtype=torch.float16)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (without_scales, "model.embed_tokens.weight_scale: not stored"),
        (as_floats, "lm_head.weight_packed: not stored"),
    ],
)
def test_a_checkpoint_that_is_not_its_plan(spoil: Any, said: str, tmp_path: Path) -> None:
    source = write_vlm(tmp_path / "model", "llava")
    plan = planned(source, Precision.INT8)
    own = language_plan(plan, open_language(source))
    write_packed(source, plan, tmp_path / "made", precision=Precision.INT8)
    share = verify_packed(tmp_path / "made", own)
    assert {"model.embed_tokens", "lm_head"} <= set(share.modules)
    file = tmp_path / "made" / "model.safetensors"
    tensors = load_file(file)
    spoil(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(QuantizeError) as caught:
        verify_packed(tmp_path / "made", own)
    assert said in caught.value.causes


def test_a_checkpoint_whose_embedding_was_not_planned_in_integers(tmp_path: Path) -> None:
    source = write_vlm(tmp_path / "model", "llava")
    write_packed(source, planned(source, Precision.INT8), tmp_path / "made", precision=Precision.INT8)
    other = language_plan(plan_modules(read_modules(source), language=Precision.INT8), open_language(source))
    with pytest.raises(QuantizeError) as caught:
        verify_packed(tmp_path / "made", other)
    assert {f"{name}: in integers, not planned so" for name in ("lm_head", "model.embed_tokens")} <= set(
        caught.value.causes
    )


def test_a_head_in_int4_by_a_rule_of_ones_own(tmp_path: Path) -> None:
    source = write_vlm(tmp_path / "model", "llava")
    rule = Rule(name="mine", component="head", precision=Precision.INT4, reason="a test")
    plan = plan_modules(read_modules(source), rules=(rule,), language=Precision.INT4)
    share = write_packed(source, plan, tmp_path / "made", precision=Precision.INT4)
    assert "lm_head" in share.modules
    assert load_file(tmp_path / "made" / "model.safetensors")["lm_head.weight_scale"].shape == (96, 1)
