"""A report for who does not see it, sees few colours, or prints it: checked on the page's own elements."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from parsed_page import Element, parse_page

import edgeq

OLD = Path(__file__).resolve().parents[1] / "golden" / "bundles-0.1.0"
BACKGROUND = "#fff"


@pytest.fixture(scope="module", params=["classifier", "vlm", "both"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Element:
    output = tmp_path_factory.mktemp("pages") / "report.html"
    both = request.param == "both"
    made = edgeq.report(OLD / ("vlm" if both else request.param), output, beside=OLD / "classifier" if both else None)
    return parse_page(made.read_text())


def test_headings_follow_each_other(page: Element) -> None:
    levels = [int(each.name[1]) for each in page.all("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_every_picture_says_what_it_shows(page: Element) -> None:
    assert [each for each in page.all("img") if not each.attributes.get("alt")] == []
    for each in page.all("svg"):
        if each.attributes.get("aria-hidden") == "true":
            continue
        assert each.attributes["role"] == "img"
        told = {below.attributes["id"]: below.text for below in each.all("title", "desc")}
        assert [told[name] != "" for name in each.attributes["aria-labelledby"].split()] == [True, True]


def test_names_are_there_once_and_lead_somewhere(page: Element) -> None:
    names = [each.attributes["id"] for each in page.walk() if "id" in each.attributes]
    assert len(names) == len(set(names))
    targets = [each.attributes["href"] for each in page.all("a")]
    assert targets
    assert {target.removeprefix("#") for target in targets} <= set(names)
    fills = {
        found for each in page.walk() for found in re.findall(r"url\(#([\w-]+)\)", each.attributes.get("fill", ""))
    }
    assert fills <= set(names)


def test_tables_have_heads_and_as_many_cells(page: Element) -> None:
    for table in page.all("table"):
        head, *body = table.all("tr")
        assert all(each.attributes.get("scope") == "col" for each in head.all("th"))
        assert {len(row.children) for row in body} <= {len(head.children)}


def test_language_and_title(page: Element) -> None:
    assert page.all("html")[0].attributes["lang"] == "en"
    assert page.all("title")[0].text.endswith("edgeq report")


def test_text_has_contrast_enough(page: Element) -> None:
    """4.5 to 1 (WCAG 2, 1.4.3) for every colour of text that the style has, on every background that it has."""
    style = page.all("style")[0].text
    inks = set(re.findall(r"(?<![-\w])(?:color|fill):\s*(#[0-9a-f]{3,6})", style))
    papers = {BACKGROUND, *re.findall(r"background:\s*(#[0-9a-f]{3,6})", style)}
    assert len(inks) >= 3
    assert {(ink, paper) for ink in inks for paper in papers if _contrast(ink, paper) < 4.5} == set()


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    """https://www.w3.org/TR/WCAG22/#dfn-relative-luminance."""
    digits = colour.removeprefix("#")
    digits = "".join(2 * each for each in digits) if len(digits) == 3 else digits
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_looks_are_told_apart_without_colour(page: Element) -> None:
    """The four fills of bars are a plain one and three patterns of other lines or dots."""
    patterns = {each.attributes["id"]: [below.name for below in each.children] for each in page.all("pattern")}
    assert {"p-quantized", "p-reference", "p-working", "p-reserve"} == set(patterns)
    used = {each.attributes["fill"] for each in page.all("rect") if each.attributes["fill"].startswith("#0")}
    assert used <= {"#0072b2"}
