"""The plan as an artifact: read back it is equal, and what differs is told line by line."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from edgeq.errors import ArtifactError
from edgeq.plan.precision import Decision, Precision, PrecisionPlan, Rule

STEM = Decision(layer="stem", op="Conv", kind="convolution", precision=Precision.INT8, rule="int8", reason="r")
HEAD = Decision(
    layer="head",
    op="Gemm",
    component="head",
    kind="linear",
    parameters=10,
    bytes=40,
    precision=Precision.FP32,
    rule="fp32-head",
    reason="größter Fehler: „hier“",
    overruled=("int8",),
)
RULES = (
    Rule(name="fp32-head", component="head", precision=Precision.FP32, reason="größter Fehler: „hier“"),
    Rule(name="int8", when="constant-weight", precision=Precision.INT8, reason="r"),
)
PLAN = PrecisionPlan(
    weights="per-tensor",
    shared_add=False,
    keep_batchnorm=("bn1",),
    rules=RULES,
    allowed={"EQ103": 'to compare: "per-tensor"'},
    decisions=(STEM, HEAD),
)


def changed(**update: object) -> PrecisionPlan:
    return PLAN.model_copy(update=update)


def test_a_plan_read_back_equals_itself(tmp_path: Path) -> None:
    PLAN.save(tmp_path / "plan.yaml")
    assert PrecisionPlan.load(tmp_path / "plan.yaml") == PLAN


def test_the_rules_can_be_read_in_the_file(tmp_path: Path) -> None:
    PLAN.save(tmp_path / "plan.yaml")
    text = (tmp_path / "plan.yaml").read_text(encoding="utf-8")
    assert "- name: fp32-head\n  precision: fp32\n  reason: 'größter Fehler: „hier“'" in text


def test_layers_of_a_precision() -> None:
    assert PLAN.layers(Precision.INT8) == {"stem"}
    assert PLAN.layers(Precision.NF4) == frozenset()


def test_two_rules_of_one_name_are_refused() -> None:
    with pytest.raises(ValidationError, match="more than one rule is named int8"):
        PrecisionPlan(rules=(RULES[1], RULES[1]), decisions=())


def test_equal_plans_have_no_difference() -> None:
    assert PLAN.diff(PLAN.model_copy()) == ()


@pytest.mark.parametrize(
    ("other", "lines"),
    [
        (changed(weights="per-channel"), ("weights: per-tensor -> per-channel",)),
        (changed(allowed={}), ("allowed: {'EQ103': 'to compare: \"per-tensor\"'} -> {}",)),
        (changed(rules=RULES[:1]), ("- rule int8",)),
        (changed(rules=RULES[::-1]), ("order of rules: fp32-head, int8 -> int8, fp32-head",)),
        (changed(rules=(RULES[0].model_copy(update={"layer": "h*"}), RULES[1])), ("~ rule fp32-head",)),
        (changed(decisions=(HEAD,)), ("- stem: int8 (int8)",)),
        (changed(decisions=(HEAD, STEM)), ("the layers stand in another order",)),
        (
            changed(decisions=(STEM, HEAD.model_copy(update={"precision": Precision.INT8, "rule": "int8"}))),
            ("~ head: fp32 (fp32-head) -> int8 (int8)",),
        ),
        (changed(decisions=(STEM, HEAD.model_copy(update={"bytes": 44}))), ("~ head: bytes 40 -> 44",)),
    ],
)
def test_what_differs_is_told(other: PrecisionPlan, lines: tuple[str, ...]) -> None:
    assert PLAN.diff(other) == lines
    assert len(other.diff(PLAN)) == len(lines)


@pytest.mark.parametrize(
    "rule",
    [
        "name: a",
        "{name: a, precision: int3, reason: r}",
        "{name: a, precision: int8, reason: r, when: full-moon}",
        "{name: a, precision: int8, reason: ''}",
        "{name: a, precision: int8, reason: r, op: Conv}",
    ],
)
def test_a_rule_that_is_none(rule: str, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(f"version: edgeq.plan/1\ndecisions: []\nrules:\n- {rule}\n")
    with pytest.raises(ArtifactError, match="is not a precision plan"):
        PrecisionPlan.load(tmp_path / "plan.yaml")
