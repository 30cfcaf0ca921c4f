"""A report reads back to exactly the finding it was made from, and to nothing else."""

from __future__ import annotations

import pytest

from edgeq.demo.scenes import KINDS
from edgeq.demo.vlm.report import FINDINGS, PLACES, SEVERITIES, DefectFinding, Reading, parse, report
from edgeq.errors import InputError


def test_every_report_reads_back_to_its_finding_and_action() -> None:
    assert [parse(report(finding)) for finding in FINDINGS] == [Reading(one, one.action) for one in FINDINGS]


def test_no_two_findings_have_the_same_report() -> None:
    assert len({report(finding) for finding in FINDINGS}) == len(FINDINGS) == 1 + 9 + 4 * 9 * 3


def test_a_report_reads_as_english() -> None:
    assert report(DefectFinding("wide_crack", "top left", "severe")) == (
        "There is a severe wide crack at the top left. Close the area and call an engineer today."
    )
    assert (
        report(DefectFinding("shadow", "centre"))
        == "The dark patch in the centre is only a shadow. No action is needed."
    )


def test_what_to_do_follows_from_kind_and_severity_and_not_from_the_place() -> None:
    actions = {(one.kind, one.severity): {two.action for two in FINDINGS if _same(one, two)} for one in FINDINGS}
    assert all(len(found) == 1 for found in actions.values())
    damages = {found.pop() for (_, severity), found in actions.items() if severity}
    assert len(damages) == 4 * len(SEVERITIES), "every kind and severity of damage asks for something of its own"


def _same(one: DefectFinding, two: DefectFinding) -> bool:
    return (one.kind, one.severity) == (two.kind, two.severity)


def test_a_report_with_the_action_of_another_still_says_what_it_says() -> None:
    crack, rust = DefectFinding("wide_crack", "top", "minor"), DefectFinding("corrosion", "top", "minor")
    mixed = report(crack).replace(crack.action, rust.action)
    assert parse(mixed) == Reading(crack, rust.action)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "There is a severe wide crack at the top left.",
        "There is a severe wide crack at the top left. Paint it blue.",
        "There is a huge wide crack at the top left. Seal it within a month.",
        "There is a severe wide crack at the top left Seal it within a month.",
        "The surface is sound. No action is needed. No action is needed.",
    ],
)
def test_anything_else_is_no_report(text: str) -> None:
    assert parse(text) is None


@pytest.mark.parametrize(
    ("kind", "place", "severity"),
    [
        ("graffiti", "top", "minor"),
        ("sound", "top", ""),
        ("shadow", "", ""),
        ("shadow", "top", "severe"),
        ("corrosion", "top", ""),
        ("corrosion", "", "minor"),
        ("corrosion", "middle", "minor"),
    ],
)
def test_fields_that_do_not_belong_together_are_refused(kind: str, place: str, severity: str) -> None:
    with pytest.raises(InputError, match=kind):
        DefectFinding(kind, place, severity)


def test_findings_name_the_kinds_of_the_scenes() -> None:
    assert {finding.kind for finding in FINDINGS} == set(KINDS)
    assert {finding.place for finding in FINDINGS} == {"", *PLACES}
