"""How far it is, on stderr: bars on a terminal, else a line for each stage, and one every so often while it lasts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars

from edgeq.cli.invocation import current

__all__ = ["ProgressLines", "byte_bar", "progress_and_words", "progress_bars", "status_line"]

EVERY_S: Final = 10.0
"""Without a terminal: the longest silence, in seconds."""

_STAGES: Final = {
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
    "int4": "language: making INT4, block by block",
    "int8": "language: making INT8",
    "checkpoint": "writing the whole checkpoint",
    "reference": "loading the whole model to compare",
    "canaries": "making canaries",
    "variants": "storing the model in three other ways",
    "ask": "asking all of them",
    "build": "building the engine",
    "wait": "another process builds this engine: waiting for it",
    "compare": "INT8 and FP16: canaries, then both in turns",
}

Report = Callable[[str, int, int], None]
"""Called as (stage, done, total)."""


class ProgressLines:
    """What a log gets: each stage as it begins, and how far it is every so often.

    Args:
        write: takes a line.
        clock: seconds, going up.
        every_s: the longest silence within a stage.
        unit: what is counted; empty where that is plain.
        per_unit: of what is counted in one of it.
        timed: say too how long each stage took.
        begins: name each stage as it begins; else nothing is said of one that is quick.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        every_s: float = EVERY_S,
        unit: str = "",
        per_unit: float = 1.0,
        timed: bool = False,
        begins: bool = True,
    ) -> None:
        self._write = write
        self._clock = clock
        self._every_s = every_s
        self._unit = unit
        self._per_unit = per_unit
        self._timed = timed
        self._begins = begins
        self._lock = threading.Lock()
        self._stage = ""
        self._begun: dict[str, float] = {}
        self._last = clock()
        self._done, self._total = 0, 0

    def report(self, stage: str, done: int, total: int) -> None:
        """So much of a stage is done.

        Args:
            stage: its name.
            done: so much.
            total: of so much; 0 where that is not known.
        """
        with self._lock:
            if stage not in self._begun:
                self._end()
                self._begun[stage] = self._clock()
                if self._begins:
                    self._say(_words(stage))
            self._stage, self._done, self._total = stage, done, total
        self.tick()

    def tick(self) -> None:
        """Say how far it is, where nothing was said for long enough."""
        with self._lock:
            if self._stage and self._clock() - self._last >= self._every_s:
                took = self._clock() - self._begun[self._stage]
                self._say(f"{_words(self._stage)}: {self._far()}{took:.0f} s")

    def end(self) -> None:
        """The last stage is over."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._timed and self._stage:
            self._say(f"{_words(self._stage)} took {self._clock() - self._begun[self._stage]:.1f} s")

    def _far(self) -> str:
        if not self._total:
            return ""
        shown = [f"{count / self._per_unit:,.0f}" for count in (self._done, self._total)]
        return f"{' of '.join(shown)}{self._unit}, "

    def _say(self, line: str) -> None:
        self._last = self._clock()
        self._write(line)

    @contextmanager
    def kept_up(self) -> Iterator[None]:
        """Speak up from a thread too, while a stage takes long and reports nothing."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(self._every_s):
                self.tick()

        thread = threading.Thread(target=watch, name="edgeq-progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


@contextmanager
def progress_bars() -> Iterator[Report]:
    """A callback that shows each stage with its counts and the time left; nothing at first."""
    with progress_and_words() as (report, _say):
        yield report


@contextmanager
def progress_and_words() -> Iterator[tuple[Report, Callable[[str], None]]]:
    """A callback for progress and one for sentences."""
    console = Console(stderr=True, highlight=False)
    if not _draws(console):
        with _lines() as lines:
            yield lines.report, _to_stderr
        return
    columns = (
        TextColumn("{task.description:<36}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    bars = Bars(*columns, console=console)
    tasks: dict[str, int] = {}

    def report_bar(stage: str, done: int, total: int) -> None:
        if not tasks:
            bars.start()
        if stage not in tasks:
            _fill(bars)
            tasks[stage] = bars.add_task(_words(stage), total=total or None)
        bars.update(bars.task_ids[list(tasks).index(stage)], completed=done)

    try:
        yield report_bar, lambda sentence: console.print(sentence, style="yellow", markup=False)
        _fill(bars)
    finally:
        if tasks:
            bars.stop()


@contextmanager
def byte_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A callback that shows how many bytes are done of how many."""
    console = Console(stderr=True)
    if not _draws(console):
        with _lines(unit=" MB", per_unit=1e6) as lines:
            yield lambda done, total: lines.report(what, done, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bars(*columns, console=console) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


@contextmanager
def status_line() -> Iterator[Report]:
    """A callback that shows what is looked at now, of which only the last matters."""
    console = Console(stderr=True)
    if not _draws(console):
        with _lines(begins=current().verbosity > 0) as lines:
            yield lines.report
        return
    with console.status("looking") as status:
        yield lambda stage, done, total: status.update(f"{stage} ({done} of {total})" if total else stage)


@contextmanager
def _lines(*, unit: str = "", per_unit: float = 1.0, begins: bool = True) -> Iterator[ProgressLines]:
    timed = current().verbosity > 0
    lines = ProgressLines(_to_stderr, every_s=EVERY_S, unit=unit, per_unit=per_unit, timed=timed, begins=begins)
    with lines.kept_up():
        yield lines
        lines.end()


def _draws(console: Console) -> bool:
    """Whether bars can be drawn over themselves."""
    return console.is_terminal and not console.is_dumb_terminal


def _fill(bars: Bars) -> None:
    """Show what went before as done."""
    for task in bars.tasks:
        bars.update(task.id, total=task.total or 1, completed=task.total or 1)


def _to_stderr(line: str) -> None:
    click.echo(line, err=True)


def _words(stage: str) -> str:
    """A stage for a person; the encoder that it is of, if there are several, goes before it."""
    encoder, colon, own = stage.partition(": ")
    if stage not in _STAGES and colon and own in _STAGES:
        return f"{encoder}: {_STAGES[own]}"
    return _STAGES.get(stage, stage)
