"""What a person sees: tables and next steps on stdout, warnings on stderr."""

from __future__ import annotations

import textwrap
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import Final

import click
from pydantic import BaseModel
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgeq.cli.invocation import current
from edgeq.errors import shell_word

__all__ = ["print_json", "print_json_text", "print_next", "print_reasons", "print_table", "print_warnings", "say"]

_WIDE: Final = 1000
"""Wider than any table, in characters: to see how wide one would be."""


def print_json(artifact: BaseModel) -> None:
    """One JSON object on stdout."""
    print_json_text(artifact.model_dump_json(indent=1))


def print_json_text(text: str) -> None:
    """One JSON object on stdout, in text; an error after it prints none."""
    click.echo(text)
    current().answered = True


def print_next(*words: str | Path) -> None:
    """The next command on stdout, ready to be typed: a path with a space stands in quotes, as does `…` for words."""
    click.echo(f"next: {' '.join(_quoted(word) for word in words)}")


def _quoted(word: str | Path) -> str:
    return f'"{word}"' if word in ("QUESTION", "WORDS") else shell_word(word)


def say(sentence: str) -> None:
    """What a person should know, on stderr."""
    click.echo(sentence, err=True)


def print_warnings(warnings: Sequence[str]) -> None:
    """Warnings on stderr."""
    for warning in warnings:
        Console(stderr=True, highlight=False).print(Text.assemble(("warning:", "yellow"), f" {warning}"))


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Container[str]) -> None:
    """A table on stdout; the columns named in `numbers` are set to the right. No bracket in it is taken for markup.

    Args:
        title: above it.
        header: of each column.
        rows: a cell for each column.
        numbers: those of `header` whose columns are set to the right.
    """
    table = Table(box=SIMPLE)
    for name in header:
        table.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(highlight=False)
    if title:
        console.print(Text(title, style="table.title"), soft_wrap=True)
    if not _fits(table, console):
        table.collapse_padding, table.pad_edge = True, False
    if not _fits(table, console):
        table.padding = 0
        if not _fits(table, console):  # then it must be folded, which a little air makes readable
            table.padding = (0, 1)
    console.print(table)


def _fits(table: Table, console: Console) -> bool:
    """Whether every row takes one line."""
    return console.measure(table, options=console.options.update(width=_WIDE)).maximum <= console.width


def print_reasons(reasons: Iterable[tuple[str, str]]) -> None:
    """Below a table, on stdout: a line for each (name, reason), once; where it is long, further lines stand in."""
    width = Console().width
    for name, reason in dict.fromkeys(reasons):
        click.echo(textwrap.fill(f"{name}: {reason}", width, initial_indent="  ", subsequent_indent="    "))
    click.echo()
