"""What a person sees: tables and next steps on stdout, warnings on stderr."""

from __future__ import annotations

import shlex
from collections.abc import Container, Iterable, Sequence
from pathlib import Path

import click
from pydantic import BaseModel
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgeq.cli.invocation import current

__all__ = ["print_json", "print_json_text", "print_next", "print_table", "print_warnings", "say"]


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
    return f'"{word}"' if word in ("QUESTION", "WORDS") else shlex.quote(str(word))


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
    table = Table(title=Text(title, style="table.title"), title_justify="left", box=SIMPLE)
    for name in header:
        table.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)
