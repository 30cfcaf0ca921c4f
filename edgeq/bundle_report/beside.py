"""Two bundles beside each other: figures, plan, memory, and what their manifests say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import zip_longest
from typing import Final

from edgeq.bundle_report.blocks import Block, Chart, Document, Paragraph, Section, Table
from edgeq.bundle_report.contents import BundleContents
from edgeq.bundle_report.document import key_facts
from edgeq.bundle_report.drawing import Bar, bars
from edgeq.bundle_report.sections.memory import waterfall
from edgeq.bundle_report.sections.model import kind_of
from edgeq.bundle_report.sections.plan import parts_of
from edgeq.bundle_report.sections.quality import drop_chart, headlines, rows_of
from edgeq.bundle_report.sections.trust import signature_of
from edgeq.bundle_report.words import confidence, in_bytes
from edgeq.plan.memory import MemoryPlan

__all__ = ["beside_document"]

_MOST_LAYERS: Final = 500
_COUNT: Final = re.compile(r", [\d,]+ [a-z]+$")
"""How many examples a row rests on, behind its name: it may be another number in the other bundle."""


def beside_document(ours: BundleContents, theirs: BundleContents) -> Document:
    """A report of what is different.

    Args:
        ours: on the left, called A.
        theirs: on the right, called B.
    """
    sections = (_facts, _figures, _plans, _memory, _files)
    return Document(
        title=f"{ours.name} and {theirs.name}",
        lead=f"A is {ours.name}: {kind_of(ours)}. B is {theirs.name}: {kind_of(theirs)}.",
        sections=tuple(section(ours, theirs) for section in sections),
        facts=tuple(_first(ours, theirs)),
    )


def _first(ours: BundleContents, theirs: BundleContents) -> Iterator[tuple[str, str]]:
    """What a reader wants first of both; the rest is below."""
    mine, others = (dict(key_facts(each)) for each in (ours, theirs))
    for name in ("Answers", "Lost", "Memory", "Size"):
        for who, known in (("A", mine), ("B", others)):
            if name in known:
                yield f"{who}: {name}", known[name]


def _facts(ours: BundleContents, theirs: BundleContents) -> Section:
    rows = [(name, one, other, _differs(one, other)) for name, one, other in _manifests(ours, theirs)]
    return Section("facts", "What they are", (Table.of("", ("what", "A", "B", ""), rows),))


def _manifests(ours: BundleContents, theirs: BundleContents) -> Iterator[tuple[str, str, str]]:
    for name, told in (
        ("kind", kind_of),
        ("made by", lambda each: each.manifest.made_by),
        ("digest", lambda each: each.verified.digest if each.verified else ""),
        ("signature", signature_of),
        ("release", _release),
        ("classes", lambda each: f"{len(each.manifest.labels):,}"),
        ("guards passed", lambda each: ", ".join(each.manifest.allowed) or "none"),
        ("size", lambda each: in_bytes(each.total_bytes)),
    ):
        yield name, told(ours), told(theirs)
    if ours.manifest.labels != theirs.manifest.labels:
        pairs = enumerate(zip_longest(ours.manifest.labels, theirs.manifest.labels, fillvalue="none"))
        first = next((place, one, other) for place, (one, other) in pairs if one != other)
        yield f"class {first[0]}, the first that differs", first[1], first[2]


def _release(contents: BundleContents) -> str:
    release = contents.manifest.release
    return "none" if release is None else f"{release.sequence} of {release.product}"


def _differs(one: str, other: str) -> str:
    return "" if one == other else "differs"


def _figures(ours: BundleContents, theirs: BundleContents) -> Section:
    """Both columns of both, and the drops beside each other."""
    mine, others = ({_COUNT.sub("", row[0]): row[1:] for row in rows_of(each)} for each in (ours, theirs))
    empty = ("", "", "")
    rows = [(name, *mine.get(name, empty), *others.get(name, empty)) for name in dict.fromkeys((*mine, *others))]
    reference = ours.reference if ours.reference == theirs.reference else "reference"
    columns = [f"{who} {what}" for who in "AB" for what in (reference, "quantized", "difference")]
    blocks: list[Block] = []
    if rows:
        found = [
            (f"{who}: {name}", headline)
            for who, each in (("A", ours), ("B", theirs))
            for name, headline in headlines(each)
        ]
        table = Table.of("Figures", ("figure", *columns), rows, numbers=range(1, 7))
        same_unit = len({headline.unit for _, headline in found}) == 1
        chart = drop_chart(found, None) if same_unit else None
        blocks.append(Chart(chart, table) if chart else table)
        for who, headline in found:
            told = confidence(headline.drop, headline.standard_error, headline.unit)
            blocks.append(Paragraph(f"{who}: {told} on {headline.examples:,} examples."))
    else:
        blocks.append(Paragraph("Neither was judged.", warning=True))
    return Section("figures", "Figures", tuple(blocks))


def _plans(ours: BundleContents, theirs: BundleContents) -> Section:
    blocks: list[Block] = []
    for file in dict.fromkeys((*ours.plans, *theirs.plans)):
        one, other = ours.plans.get(file), theirs.plans.get(file)
        if one is None or other is None:
            blocks.append(Paragraph(f"{file} is in {'A' if other is None else 'B'} alone."))
            continue
        mine, others = parts_of(one), parts_of(other)
        rows = (
            (part, precision.upper(), *_counts(mine.get((part, precision))), *_counts(others.get((part, precision))))
            for part, precision in dict.fromkeys((*mine, *others))
        )
        header = ("part", "precision", "A layers", "A parameters", "B layers", "B parameters")
        blocks.append(Table.of(f"Parts, by {file}", header, rows, numbers=range(2, 6)))
        changed = one.diff(other)
        if changed:
            lines = ((line,) for line in changed)
            title = f"Every difference ({len(changed):,}): - A alone, + B alone, ~ changed from A to B"
            blocks.append(Table.of(title, ("rule, setting or layer",), lines, folded=True, most=_MOST_LAYERS))
        else:
            blocks.append(Paragraph(f"{file} is the same in both."))
    return Section("plan", "What was done to each part", tuple(blocks or [Paragraph("Neither has a plan.")]))


def _counts(found: tuple[int, int] | None) -> tuple[str, str]:
    return ("0", "0") if found is None else (f"{found[0]:,}", f"{found[1]:,}")


def _memory(ours: BundleContents, theirs: BundleContents) -> Section:
    """A waterfall for each that has a plan, and the items beside each other."""
    blocks: list[Block] = [
        Chart(waterfall(plan, f"{who}: memory while {plan.tightest.name}"), _items(who, plan))
        for who, plan in (("A", ours.memory), ("B", theirs.memory))
        if plan is not None
    ]
    if ours.memory is not None and theirs.memory is not None:
        rows = _beside(ours.memory, theirs.memory)
        blocks.append(Table.of("At the tightest moment", ("what", "A", "B", "B - A"), rows, numbers=(1, 2, 3)))
    if not blocks:
        sizes = [("A", ours.total_bytes), ("B", theirs.total_bytes)]
        rows_of_size = [Bar(who, size / 1e6, "weights", in_bytes(size)) for who, size in sizes]
        told = "; ".join(f"{who} {in_bytes(size)}" for who, size in sizes)
        table = Table.of("", ("bundle", "bytes"), ((who, f"{size:,}") for who, size in sizes), numbers=(1,))
        drawing = bars("Sizes of the bundles", told, "MB (10^6 bytes)", rows_of_size)
        blocks = [Paragraph("Neither has a memory plan."), Chart(drawing, table)]
    return Section("memory", "Memory", tuple(blocks))


def _items(who: str, plan: MemoryPlan) -> Table:
    rows = ((phase.name, item.name, in_bytes(item.bytes), item.how) for phase in plan.phases for item in phase.items)
    header = ("while", "what", "size", "how it was reckoned")
    return Table.of(f"{who}: every item", header, rows, numbers=(2,), folded=True)


def _beside(ours: MemoryPlan, theirs: MemoryPlan) -> Iterator[tuple[str, str, str, str]]:
    mine, others = ({item.name: item.bytes for item in plan.tightest.items} for plan in (ours, theirs))
    for name in dict.fromkeys((*mine, *others)):
        yield _difference(name, mine.get(name, 0), others.get(name, 0))
    yield _difference("all of it", ours.needed_bytes, theirs.needed_bytes)


def _difference(name: str, one: int, other: int) -> tuple[str, str, str, str]:
    sign = "+" if other > one else "-" if other < one else ""
    return name, in_bytes(one), in_bytes(other), f"{sign}{in_bytes(abs(other - one))}"


def _files(ours: BundleContents, theirs: BundleContents) -> Section:
    mine, others = ({file.name: file for file in each.manifest.files} for each in (ours, theirs))
    rows = []
    for name in sorted(mine.keys() | others.keys()):
        one, other = mine.get(name), others.get(name)
        if one is not None and other is not None and one.sha256 == other.sha256:
            continue
        sizes = tuple("none" if file is None else f"{file.size:,}" for file in (one, other))
        rows.append((name, *sizes))
    title = f"{len(rows)} files differ, of {len(mine.keys() | others.keys())}"
    return Section("files", "Files", (Table.of(title, ("file", "A bytes", "B bytes"), rows, numbers=(1, 2)),))
