"""What a tracker is, and what it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

__all__ = ["Record", "Tracker"]


@dataclass(frozen=True)
class Record:
    """What one run comes to, in the words that trackers share.

    Names of params, metrics and series have letters, digits and `_./-` alone, which every tracker takes.

    Attributes:
        name: of the run.
        params: what was chosen.
        metrics: what was measured.
        series: measured for one thing after the other, such as layer by layer; the place is the step.
        summary: Markdown for people.
        texts: name -> a small file to keep beside the figures.
        files: likewise, those that are on the disk.
        pictures: likewise, PNG.
    """

    name: str
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    series: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    summary: str = ""
    texts: Mapping[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    pictures: tuple[Path, ...] = ()


class Tracker(Protocol):
    """A place that keeps figures of runs.

    Attributes:
        name: for people.
    """

    name: str

    def check(self) -> None:
        """Make sure, before any work, that a record could be kept.

        Raises:
            ImportError: its package is not installed.
            InputError: it does not answer, or cannot be written to.
        """
        ...

    def write(self, record: Record) -> None:
        """Keep a record; raises whatever it likes."""
        ...
