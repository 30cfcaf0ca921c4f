"""The plan of a vision-language model: on components made by hand, and on a real architecture without weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeq.errors import GuardError, PlanError
from edgeq.families.structure import Module
from edgeq.model.graph.components import Component, Kind, Layer
from edgeq.plan.facts import Facts
from edgeq.plan.guards import check
from edgeq.plan.precision import Precision, PrecisionPlan, Rule
from edgeq.plan.rules import plan_modules


def layer(name: str, kind: Kind, op: str = "Linear") -> Layer:
    return Layer(name=name, op=op, kind=kind, parameters=4, bytes=8, output=name)


COMPONENTS = (
    Component(
        "vision",
        (
            layer("v.patch", "convolution", "Conv2d"),
            layer("v.q_proj", "attention query/key"),
            layer("v.fc1", "feed-forward"),
        ),
    ),
    Component("connector", (layer("c.linear_1", "linear"), layer("c.newline", "parameter", "Model"))),
    Component(
        "language",
        (
            layer("l.embed_tokens", "embedding", "Embedding"),
            layer("l.q_proj", "attention query/key"),
            layer("l.o_proj", "attention value/output"),
            layer("l.norm", "normalization", "RMSNorm"),
            layer("l.up_proj", "feed-forward"),
            layer("l.other", "linear"),
        ),
    ),
    Component("cross-attention", (layer("l.0.cross_attn.q_proj", "cross-attention"),)),
    Component("head", (layer("lm_head", "linear"),)),
)


def test_only_the_linear_layers_of_the_language_model_are_nf4() -> None:
    plan = plan_modules(COMPONENTS)
    assert plan.layers(Precision.NF4) == {"l.q_proj", "l.o_proj", "l.up_proj", "l.other"}
    assert len(plan.layers(Precision.FP16)) == sum(len(part.layers) for part in COMPONENTS) - 4
    assert all(decision.reason for decision in plan.decisions)


def test_the_rule_of_each_part() -> None:
    rules = {decision.layer: decision.rule for decision in plan_modules(COMPONENTS).decisions}
    assert rules["v.fc1"] == "fp16-vision"
    assert rules["c.newline"] == "fp16-connector"
    assert rules["l.embed_tokens"] == "fp16-embedding"
    assert rules["l.norm"] == "fp16-normalization"
    assert rules["l.0.cross_attn.q_proj"] == "fp16-cross-attention"
    assert rules["lm_head"] == "fp16-head"


def test_the_plan_passes_every_guard() -> None:
    assert check(Facts(plan=plan_modules(COMPONENTS)), {}) == ()


@pytest.mark.parametrize(
    ("component", "kind", "code"),
    [("vision", "feed*", "EQ101"), ("connector", "linear", "EQ104"), ("head", "*", "EQ105")],
)
def test_nf4_elsewhere_trips_its_guard(component: str, kind: str, code: str) -> None:
    rule = Rule(name="small", component=component, kind=kind, precision=Precision.NF4, reason="to save bytes")
    with pytest.raises(GuardError, match=code):
        check(Facts(plan=plan_modules(COMPONENTS, rules=(rule,))), {})


@pytest.mark.parametrize("language", [Precision.INT4, Precision.INT8])
def test_embeddings_in_int8_are_those_of_the_language_model(language: Precision) -> None:
    plan = plan_modules(COMPONENTS, language=language, embeddings=Precision.INT8)
    before = plan_modules(COMPONENTS, language=language)
    changed = {new.layer: new.rule for new, old in zip(plan.decisions, before.decisions, strict=True) if new != old}
    assert changed == {"l.embed_tokens": "int8-embedding", "lm_head": "int8-head"}
    assert {"l.embed_tokens", "lm_head"} <= plan.layers(Precision.INT8)
    assert check(Facts(plan=plan), {}) == (), "asked for by an option of its own, no guard stops it"


def test_an_int8_head_by_a_rule_of_ones_own_trips_the_guard() -> None:
    rule = Rule(name="small", component="head", precision=Precision.INT8, reason="to save bytes")
    with pytest.raises(GuardError, match="EQ105"):
        check(Facts(plan=plan_modules(COMPONENTS, rules=(rule,), language=Precision.INT4)), {})


def test_embeddings_in_int8_do_not_go_with_nf4() -> None:
    with pytest.raises(PlanError, match=r"l\.embed_tokens \(Embedding\) in int8: no loader of NF4"):
        plan_modules(COMPONENTS, embeddings=Precision.INT8)


def test_a_tied_head_is_what_the_embedding_is() -> None:
    tied = Module("lm_head", "Linear", "linear", 0, 0, "lm_head")
    components = (*COMPONENTS[:-1], Component("head", (tied,)))
    plan = plan_modules(components, language=Precision.INT4, embeddings=Precision.INT8)
    assert {"l.embed_tokens", "lm_head"} <= plan.layers(Precision.INT8)
    rule = Rule(name="mine", component="head", precision=Precision.FP16, reason="r")
    with pytest.raises(PlanError, match=r"are one weight, planned fp16 by mine and int8 by int8-embedding"):
        plan_modules(components, rules=(rule,), language=Precision.INT4, embeddings=Precision.INT8)


def test_rows_that_do_not_fill_words_stay_floats() -> None:
    odd = Module("l.embed_tokens", "Embedding", "embedding", 10 * 6, 120, "l.embed_tokens", shape=(10, 6))
    components = (*COMPONENTS[:2], Component("language", (odd,)), COMPONENTS[-1])
    with pytest.raises(PlanError, match=r"int8-embedding .* its input of 6 numbers falls into no groups"):
        plan_modules(components, language=Precision.INT8, embeddings=Precision.INT8)


def test_only_linear_layers_can_be_quantized() -> None:
    rule = Rule(name="all", component="vision", precision=Precision.NF4, reason="to save bytes")
    with pytest.raises(PlanError, match=r"the rule all wants v\.patch"):
        plan_modules(COMPONENTS, rules=(rule,))


def test_a_condition_is_for_graphs() -> None:
    rule = Rule(name="mine", when="constant-weight", precision=Precision.FP16, reason="r")
    with pytest.raises(PlanError, match="holds for none of them"):
        plan_modules(COMPONENTS, rules=(rule,))


def test_read_back_it_equals_itself(tmp_path: Path) -> None:
    plan = plan_modules(COMPONENTS)
    plan.save(tmp_path / "plan.yaml")
    assert PrecisionPlan.load(tmp_path / "plan.yaml") == plan


def test_llava_from_its_config_alone(shared_data: Path) -> None:
    from edgeq.families.modules import read_modules

    plan = plan_modules(read_modules(shared_data / "vlm-configs" / "llava-1.5-7b"))
    nf4 = [decision for decision in plan.decisions if decision.precision is Precision.NF4]
    # 32 blocks of four projections 4096 x 4096 and three layers 4096 x 11008 (LLaMA 7B, arXiv 2302.13971).
    assert len(nf4) == 32 * 7
    assert sum(decision.parameters for decision in nf4) == 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert check(Facts(plan=plan), {}) == ()
