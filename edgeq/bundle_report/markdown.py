"""A report as GitHub's Markdown: without pictures, and charts are their tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from edgeq.bundle_report.blocks import Block, Chart, Document, Paragraph, Pictures, Table
from edgeq.bundle_report.words import shown

__all__ = ["as_markdown", "escaped"]

_ACTIVE: Final = re.compile(r"[\\`*_{}\[\]<>#|!~&$@^]|(?<=:)//|(?<=www)\.", re.IGNORECASE)
_ENTITIES: Final = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}


def as_markdown(document: Document) -> str:
    """The whole document; every text in it is escaped."""
    return "\n".join(_document(document)) + "\n"


def escaped(text: str) -> str:
    """A text that Markdown shows as it is: bounded, on one line, no markup, no HTML and no link in it."""
    return _ACTIVE.sub(lambda found: _ENTITIES.get(found[0], "".join(f"\\{each}" for each in found[0])), shown(text))


def _document(document: Document) -> Iterator[str]:
    yield from (f"# {escaped(document.title)}", "", escaped(document.lead), "")
    yield from _rows(Table.of("", ("", ""), document.facts))
    for section in document.sections:
        yield from ("", f"## {escaped(section.title)}")
        for block in section.blocks:
            yield ""
            yield from _block(block)


def _block(block: Block) -> Iterator[str]:
    if isinstance(block, Paragraph):
        yield f"**Note:** {escaped(block.text)}" if block.warning else escaped(block.text)
    elif isinstance(block, Table):
        yield from _table(block)
    elif isinstance(block, Chart):
        yield from (f"*{escaped(block.drawing.title)}*: {escaped(block.drawing.description)}", "")
        yield from _table(block.table)
    else:
        yield from _pictures(block)


def _pictures(block: Pictures) -> Iterator[str]:
    yield from (f"**{escaped(block.title)}**", "")
    for item in block.items:
        yield "- " + "; ".join(f"{escaped(name)}: {escaped(text)}" for name, text in item.lines)


def _table(table: Table) -> Iterator[str]:
    if table.folded:
        yield from (f"<details><summary>{escaped(table.title)}</summary>", "")
    elif table.title:
        yield from (f"**{escaped(table.title)}**", "")
    yield from _rows(table)
    if table.left_out:
        yield from ("", f"{table.left_out:,} more rows are not shown.")
    if table.folded:
        yield from ("", "</details>")


def _rows(table: Table) -> Iterator[str]:
    yield _line(table.header)
    yield "|" + "|".join(" ---: " if place in table.numbers else " --- " for place in range(len(table.header))) + "|"
    yield from map(_line, table.rows)


def _line(cells: tuple[str, ...]) -> str:
    return "|" + "|".join(f" {escaped(cell)} " for cell in cells) + "|"
