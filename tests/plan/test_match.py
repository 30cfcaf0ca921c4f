"""Rules of one's own: the first that matches decides, none fights in silence, and a mistake in one is named."""

from __future__ import annotations

import glob
from pathlib import Path

import pytest
from networks import tiny_network

from edgeq.errors import PlanError
from edgeq.export.stage import fold_graph
from edgeq.plan.precision import Decision, Precision, PrecisionPlan, Rule
from edgeq.plan.rule_file import load_rules
from edgeq.plan.rules import plan_classifier, replan

# Layers of the folded network: stem, stem_relu, depthwise, depthwise_clip, pointwise, residual, residual_relu, pool,
# flatten, head.


def planned(*rules: Rule) -> PrecisionPlan:
    model, _ = fold_graph(tiny_network())
    return plan_classifier(model, rules=rules)


def rule(name: str = "mine", precision: Precision = Precision.FP32, **patterns: str) -> Rule:
    return Rule.model_validate({"name": name, "precision": precision, "reason": "because", **patterns})


def decisions(plan: PrecisionPlan) -> dict[str, Decision]:
    return {decision.layer: decision for decision in plan.decisions}


def test_a_rule_of_ones_own_is_asked_first_and_the_one_behind_it_is_named() -> None:
    found = decisions(planned(rule(layer="pointwise")))
    assert (found["pointwise"].precision, found["pointwise"].rule) == (Precision.FP32, "mine")
    assert found["pointwise"].overruled == ("int8-weighted",)
    assert found["stem"].rule == "int8-weighted"


def test_what_only_carried_an_int8_layers_values_follows_it() -> None:
    """The addition has an input that is not INT8 any more, and so its activation has nobody to apply it."""
    found = decisions(planned(rule(layer="pointwise")))
    assert {found[name].precision for name in ("residual", "residual_relu")} == {Precision.FP16}


def test_the_first_of_two_rules_decides() -> None:
    half, single = rule("half", Precision.FP16, kind="depthwise*"), rule("single", layer="depth*")
    found = decisions(planned(half, single))
    assert (found["depthwise"].rule, found["depthwise"].overruled) == ("half", ("single", "int8-weighted"))
    assert (found["depthwise_clip"].rule, found["depthwise_clip"].overruled) == ("single", ())


def test_every_conflict_is_recorded() -> None:
    """By a second way: two rules alone decide each layer as either of them would, and only a conflict is recorded."""
    first, second = rule("first", layer="*wise*"), rule("second", Precision.FP16, kind="*convolution")
    both = decisions(planned(first, second))
    for layer, decision in both.items():
        conflict = layer in ("depthwise", "pointwise")  # what both patterns match
        assert ("second" in decision.overruled) is conflict, layer


def test_component_kind_and_layer_must_all_match() -> None:
    found = decisions(planned(rule(component="backbone", kind="convolution", layer="*e*")))
    assert [name for name, decision in found.items() if decision.rule == "mine"] == ["stem", "pointwise"]


def test_case_matters() -> None:
    with pytest.raises(PlanError, match="the rule mine matches no layer"):
        planned(rule(layer="Stem"))


@pytest.mark.parametrize(
    ("patterns", "near"),
    [
        ({"layer": "depthwize"}, "no layer is like 'depthwize'; there is depthwise"),
        ({"kind": "convolutions"}, "no kind is like 'convolutions'; there is convolution"),
        ({"component": "heads"}, "no component is like 'heads'; there is head"),
        ({"component": "head", "layer": "stem"}, "no layer matches all"),
        ({"layer": "[", "kind": "convolution"}, "no layer is like '['"),
    ],
)
def test_a_pattern_that_matches_nothing_names_what_is_near(patterns: dict[str, str], near: str) -> None:
    with pytest.raises(PlanError) as caught:
        planned(Rule.model_validate({"name": "mine", "precision": "fp32", "reason": "because", **patterns}))
    assert near in str(caught.value)


def test_a_condition_that_never_holds_is_named() -> None:
    with pytest.raises(PlanError, match=r'its patterns match 1 layers, "adds-int8" holds for none'):
        planned(rule(layer="stem", when="adds-int8"))


def test_a_rule_that_decides_nothing_is_named_with_the_one_before_it() -> None:
    with pytest.raises(PlanError, match="late decides nothing: early is asked before it"):
        planned(rule("early", kind="*convolution"), rule("late", layer="stem"))


def test_a_name_that_a_built_in_rule_has_is_refused() -> None:
    with pytest.raises(PlanError, match="more than one rule is named fp32-head"):
        planned(rule("fp32-head", layer="stem"))


@pytest.mark.parametrize(("precision", "layer"), [(Precision.INT8, "pool"), (Precision.NF4, "stem")])
def test_a_precision_that_a_layer_cannot_have_is_refused(precision: Precision, layer: str) -> None:
    with pytest.raises(PlanError, match=f"the rule mine wants {layer}"):
        planned(rule(precision=precision, layer=layer))


def test_a_literal_name_is_escaped_by_the_caller() -> None:
    model, _ = fold_graph(tiny_network())
    model.graph.node[0].name = "stem[0]"
    with pytest.raises(PlanError):
        plan_classifier(model, rules=(rule(layer="stem[0]"),))
    found = decisions(plan_classifier(model, rules=(rule(layer=glob.escape("stem[0]")),)))
    assert found["stem[0]"].rule == "mine"


def test_built_in_rules_that_match_nothing_are_left_out() -> None:
    names = {found.name for found in planned().rules}
    assert {"fp32-head", "int8-weighted", "int8-add"} <= names
    assert not {"fp32-batchnorm", "fp32-softmax", "fp16-query-key", "int8-pool"} & names


def test_the_rules_of_a_saved_plan_decide_the_same_again(tmp_path: Path) -> None:
    made = planned(rule(layer="pointwise")).model_copy(update={"shared_add": False, "allowed": {"EQ107": "few"}})
    made.save(tmp_path / "plan.yaml")
    assert replan(fold_graph(tiny_network())[0], PrecisionPlan.load(tmp_path / "plan.yaml")) == made


def test_a_decision_that_does_not_follow_from_the_rules_is_shown() -> None:
    made = planned()
    moved = tuple(
        d.model_copy(update={"precision": Precision.FP32}) if d.layer == "stem" else d for d in made.decisions
    )
    with pytest.raises(PlanError) as caught:
        replan(fold_graph(tiny_network())[0], made.model_copy(update={"decisions": moved}))
    assert "~ stem: fp32 (int8-weighted) -> int8 (int8-weighted)" in str(caught.value)


def test_a_saved_plan_for_another_network_is_decided_anew() -> None:
    other, _ = fold_graph(tiny_network())
    other.graph.node[0].name = "first"
    made = replan(other, planned())
    assert [decision.layer for decision in made.decisions][:2] == ["first", "stem_relu"]


def test_a_saved_plan_with_a_rule_that_matches_nothing_is_refused() -> None:
    other, _ = fold_graph(tiny_network())
    other.graph.node[0].name = "first"
    with pytest.raises(PlanError, match="the rule mine matches no layer"):
        replan(other, planned(rule(layer="stem")))


def test_a_saved_plan_that_leaves_a_layer_out_is_refused() -> None:
    made = planned()
    without = made.model_copy(update={"rules": tuple(r for r in made.rules if r.name != "fp16-otherwise")})
    with pytest.raises(PlanError, match="no rule of the plan matches pool"):
        replan(fold_graph(tiny_network())[0], without)


def test_rules_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(
        "version: edgeq.rules/1\nrules:\n- {name: mine, precision: fp32, reason: because, layer: pointwise}\n"
    )
    assert load_rules(tmp_path / "rules.yaml") == (rule(layer="pointwise"),)
