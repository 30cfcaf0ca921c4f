"""The skip list on a real LLaVA, loaded by transformers and bitsandbytes on the CPU: what is 4-bit, what is not."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
import transformers
from vlm import write_vlm

from edgeq.errors import QuantizeError
from edgeq.families.modules import read_modules
from edgeq.plan.precision import Decision, Precision, PrecisionPlan, Rule
from edgeq.plan.rules import plan_modules
from edgeq.quantize.nf4.skip_list import skip_modules, verify_modules

# q and o are 64 x 64, k and v 32 x 64, gate, up and down 64 x 128; two layers.
LINEARS = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128)
# All of it: the above, embedding and head of 96 x 64, five norms of 64.
LANGUAGE = LINEARS + 2 * 96 * 64 + 5 * 64


def load(directory: Path, skip: Sequence[str] | None, **settings: Any) -> Any:
    config = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_compute_dtype=torch.float16,
        llm_int8_skip_modules=None if skip is None else list(skip),
        **{"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, **settings},
    )
    return transformers.AutoModelForImageTextToText.from_pretrained(
        directory, quantization_config=config, dtype=torch.float16
    )


def four_bit(model: Any) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, bnb.nn.Linear4bit)}


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vlm(tmp_path_factory.mktemp("models") / "llava", "llava")


@pytest.fixture(scope="module")
def plan(llava: Path) -> PrecisionPlan:
    return plan_modules(read_modules(llava))


@pytest.mark.parametrize("hub", [False, True], ids=["new names", "hub names"])
def test_exactly_the_language_linears_become_four_bit(tmp_path: Path, hub: bool) -> None:
    directory = write_vlm(tmp_path / "llava", "llava", hub=hub)
    plan = plan_modules(read_modules(directory))
    model = load(directory, skip_modules(plan))
    projections = [f"self_attn.{name}_proj" for name in "qkvo"] + [
        f"mlp.{name}_proj" for name in ("gate", "up", "down")
    ]
    expected = {f"model.language_model.layers.{layer}.{name}" for layer in (0, 1) for name in projections}
    assert four_bit(model) == expected
    found = verify_modules(model, plan)
    assert (set(found.modules), found.parameters) == (expected, LINEARS)
    outside = sum(p.numel() for name, p in model.named_parameters() if "language_model" not in name)
    assert found.all_parameters == LANGUAGE - 96 * 64 + outside  # the head lies outside of language_model
    assert found.share == LINEARS / found.all_parameters


def test_the_list_is_full(plan: PrecisionPlan) -> None:
    skipped = skip_modules(plan)
    assert "lm_head" in skipped
    assert "model.vision_tower.encoder.layers.1.mlp.fc2" in skipped
    assert "model.multi_modal_projector.linear_1" in skipped
    assert not [name for name in skipped if "language_model" in name]


@pytest.mark.parametrize(
    ("skip", "traps"),
    [
        (None, ["model.vision_tower.encoder.layers.0.mlp.fc1", "model.multi_modal_projector.linear_1"]),
        (["vision_tower"], ["model.vision_tower.encoder.layers.0.mlp.fc1", "lm_head"]),
        (["model.vision_tower", "model.multi_modal_projector"], ["lm_head"]),
    ],
    ids=["no list", "a short name", "no head"],
)
def test_the_traps_are_found(llava: Path, plan: PrecisionPlan, skip: list[str] | None, traps: list[str]) -> None:
    model = load(llava, skip)
    with pytest.raises(QuantizeError) as caught:
        verify_modules(model, plan)
    found = set(caught.value.causes)
    assert {f"{name}: 4-bit, not planned nf4" for name in traps} <= found
    assert len(found) == len(four_bit(model) - plan.layers(Precision.NF4))


def test_a_layer_that_should_be_four_bit_and_is_not(llava: Path, plan: PrecisionPlan) -> None:
    name = "model.language_model.layers.1.mlp.up_proj"
    model = load(llava, [*skip_modules(plan), name])
    with pytest.raises(QuantizeError) as caught:
        verify_modules(model, plan)
    assert caught.value.causes == (f"{name}: planned nf4, not 4-bit",)


def test_another_four_bit_type_is_found(llava: Path, plan: PrecisionPlan) -> None:
    model = load(llava, skip_modules(plan), bnb_4bit_quant_type="fp4")
    with pytest.raises(QuantizeError, match=r"layers\.0\.mlp\.down_proj: fp4, not nf4"):
        verify_modules(model, plan)


def test_an_eight_bit_layer_is_found(llava: Path, plan: PrecisionPlan) -> None:
    model = load(llava, skip_modules(plan))
    model.set_submodule("lm_head", bnb.nn.Linear8bitLt(64, 96, bias=False))
    with pytest.raises(QuantizeError) as caught:
        verify_modules(model, plan)
    assert caught.value.causes == ("lm_head: 8-bit, not planned",)


def test_a_plan_of_another_model_is_found(llava: Path, plan: PrecisionPlan) -> None:
    model = load(llava, skip_modules(plan))
    lost = plan.decisions[0].model_copy(update={"layer": "model.extra", "precision": Precision.NF4})
    with pytest.raises(QuantizeError) as caught:
        verify_modules(model, PrecisionPlan(decisions=(*plan.decisions, lost)))
    assert caught.value.causes == ("model.extra: planned nf4, not in the model",)


def test_a_rule_keeps_one_layer_out(llava: Path) -> None:
    name = "model.language_model.layers.0.mlp.down_proj"
    rule = Rule(name="keep", layer=glob.escape(name), precision=Precision.FP16, reason="sensitive")
    plan = plan_modules(read_modules(llava), rules=(rule,))
    model = load(llava, skip_modules(plan))
    assert name not in verify_modules(model, plan).modules
    assert isinstance(model.get_submodule(name), torch.nn.Linear)


def test_a_tied_head_stays_the_embedding(tmp_path: Path) -> None:
    directory = write_vlm(tmp_path / "paligemma", "paligemma")
    plan = plan_modules(read_modules(directory))
    assert "lm_head" in skip_modules(plan)
    model = load(directory, skip_modules(plan))
    verify_modules(model, plan)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_save_and_reload(llava: Path, plan: PrecisionPlan, tmp_path: Path) -> None:
    model = load(llava, skip_modules(plan))
    model.save_pretrained(tmp_path / "saved", save_original_format=False)
    again = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "saved")
    assert verify_modules(again, plan) == verify_modules(model, plan)
    ours, theirs = model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def decision(layer: str, precision: Precision) -> Decision:
    return Decision(layer=layer, op="Linear", precision=precision, rule="test", reason="test")


@pytest.mark.parametrize(
    ("spared", "quantized"),
    [
        ("head", "model.head"),  # the end of the other
        ("model.layers", "model.layers.0"),  # its beginning
        ("model.a.b", "model.a_b"),  # a dot stands for any character
    ],
)
def test_names_that_transformers_takes_for_one_are_refused(spared: str, quantized: str) -> None:
    plan = PrecisionPlan(decisions=(decision(spared, Precision.FP16), decision(quantized, Precision.NF4)))
    with pytest.raises(QuantizeError, match=f"{quantized} cannot be NF4 while {spared} is not"):
        skip_modules(plan)


def test_similar_names_are_kept_apart() -> None:
    plan = PrecisionPlan(
        decisions=(decision("model.layers.1", Precision.FP16), decision("model.layers.11", Precision.NF4))
    )
    assert skip_modules(plan) == ["model.layers.1"]
