"""What a person sees: progress on stderr, tables on stdout."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager

import click
from pydantic import BaseModel
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

__all__ = [
    "print_json",
    "print_table",
    "print_warnings",
    "progress_bars",
    "say",
]

_STAGES = {
    "draw": "drawing scenes",
    "open": "opening the model",
    "export": "exporting, folding, proving parity",
    "calibrate": "calibrating",
    "fold": "trying folds of channels on images held back",
    "try": "trying every method on images held back",
    "search ranges": "searching ranges",
    "search": "searching for layers to keep",
    "search: images": "embedding images to search among",
    "texts": "embedding texts of classes",
    "text: fp16": "text: making FP16",
    "judge: INT8 images": "judging: embedding images in INT8",
    "INT8 images: fold": "INT8 images: trying folds of channels",
    "quantize": "quantizing for each backend",
    "judge": "judging",
    "vision: load": "vision: loading",
    "vision: reference": "vision: asking the reference",
    "vision: export": "vision: exporting",
    "vision: proof": "vision: proving parity",
    "vision: overflow": "vision: looking for overflow in FP16",
    "vision: fp16": "vision: making FP16",
    "vision: fp16 proof": "vision: proving FP16",
    "nf4": "language: making NF4",
    "reference": "loading the whole model to compare",
    "canaries": "making canaries",
    "variants": "storing the model in three other ways",
    "ask": "asking all of them",
}


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """A callback that draws one bar for each stage on stderr, with counts and the time left; none at first."""
    columns = (
        TextColumn("{task.description:<36}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    bars = Bars(*columns, console=Console(stderr=True))
    tasks: dict[str, int] = {}

    def report(stage: str, done: int, total: int) -> None:
        if not tasks:
            bars.start()
        if stage not in tasks:
            for task in bars.tasks:
                bars.update(task.id, total=task.total or 1, completed=task.total or 1)
            tasks[stage] = bars.add_task(_STAGES.get(stage, stage), total=total or None)
        bars.update(bars.task_ids[list(tasks).index(stage)], completed=done)

    try:
        yield report
        for task in bars.tasks:
            bars.update(task.id, total=task.total or 1, completed=task.total or 1)
    finally:
        if tasks:
            bars.stop()


def print_json(artifact: BaseModel) -> None:
    """One JSON object on stdout."""
    click.echo(artifact.model_dump_json(indent=1))


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
