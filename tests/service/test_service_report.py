"""A report says what the text says, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeq.demo.vlm.report import FINDINGS, report
from edgeq.errors import ArtifactError
from edgeq.service.report import Report, read_report
from edgeq.service.report_phrases import DEFAULT_PHRASES, ReportPhrases, load_report_phrases

SCHEMA = Report.model_json_schema(mode="serialization")


def found(text: str, phrases: ReportPhrases = DEFAULT_PHRASES) -> tuple[str | None, ...]:
    """Damage, place, severity and action."""
    made = read_report(phrases, text)
    assert made.text == text
    return made.damage, made.place, made.severity, made.action


@pytest.mark.parametrize("finding", FINDINGS, ids=str)
def test_each_sentence_of_the_demo_reads_back(finding: object) -> None:
    from edgeq.demo.vlm.report import DefectFinding

    assert isinstance(finding, DefectFinding)
    damage = "none" if finding.kind in ("sound", "shadow") else finding.kind
    wanted = (damage, finding.place or None, finding.severity or None, finding.action)
    assert found(report(finding)) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", (None, None, None, None)),
        ("A cat sits on a mat.", (None, None, None, None)),
        ("There is a crack.", ("crack", None, None, None)),
        ("there  is A\tWIDE crack", ("wide_crack", None, None, None)),
        ("Something is cracked.", (None, None, None, None)),
        ("There is a crack and there is rust.", (None, None, None, None)),
        ("There is no corrosion.", (None, None, None, None)),
        ("There is no damage.", ("none", None, None, None)),
        ("No cracks were found. Rust at the top right.", ("corrosion", "top right", None, None)),
        ("Rust at the top. Rust at the bottom.", ("corrosion", None, None, None)),
        ("Slight rust. It should be removed", ("corrosion", None, "minor", "It should be removed")),
        ("The wall is clean. How much is left?", (None, None, None, None)),
        ("Seal it. Then have a look. Call an engineer!", (None, None, None, "Seal it. Call an engineer!")),
    ],
)
def test_what_a_text_says(text: str, wanted: tuple[str | None, ...]) -> None:
    assert found(text) == wanted


@given(st.text())
def test_any_text_gives_a_report_of_known_values(text: str) -> None:
    made = read_report(DEFAULT_PHRASES, text)
    assert set(made.model_dump()) == set(SCHEMA["required"])
    assert made.damage in {None, *DEFAULT_PHRASES.damage}
    assert made.place in {None, *DEFAULT_PHRASES.place}
    assert made.severity in {None, *DEFAULT_PHRASES.severity}


def test_terms_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "terms.yaml").write_text(
        "version: edgeq.terms/1\nquestion: Tree?\ndamage: {broken: [a+b, (broken]}\nplace: {crown: [crown]}\n"
    )
    phrases = load_report_phrases(tmp_path / "terms.yaml")
    assert found("A (BROKEN a+b in the crown. Seal it.", phrases) == ("broken", "crown", None, None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "version: edgeq.phrases/2\nquestion: a\ndamage: {a: [a]}",
        "version: edgeq.terms/1\nquestion: a",
        "version: edgeq.terms/1\nquestion: a\ndamage: {a: [a]}\nplaces: {}",
        "version: edgeq.terms/1\nquestion: a\ndenials: [no]\ndamage: {a: [a]}",
    ],
)
def test_terms_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "terms.yaml").write_text(text)
    with pytest.raises(ArtifactError, match="holds no phrases"):
        load_report_phrases(tmp_path / "terms.yaml")
