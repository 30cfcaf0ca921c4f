"""The benchmark that kills catalogs: what it lets pass, and one kill."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.catalog_killed import IMAGES, Kill, show

KILL = Kill(kind="driver", whole=3, again=10, workers=2, rows=IMAGES, twice=0, equal=True)


@pytest.mark.parametrize("change", [{"again": 10 + 1}, {"workers": 1}, {"rows": 39}, {"twice": 1}, {"equal": False}])
def test_what_does_not_hold_is_told(change: dict[str, int]) -> None:
    assert KILL.passed
    assert not replace(KILL, **change).passed  # type: ignore[arg-type]


def test_the_table_has_the_worst_of_each_kind(capsys: pytest.CaptureFixture[str]) -> None:
    show([KILL, replace(KILL, whole=1, again=0, rows=39, twice=1, equal=False)])
    assert capsys.readouterr().out.splitlines()[1].split() == [
        "driver",
        "2",
        "1",
        "to",
        "3",
        "10",
        "10",
        "39/40",
        "1",
        "1",
    ]


def test_one_kill() -> None:
    """In a process of its own, which forks: no thread may be near it."""
    command = [sys.executable, "-m", "benchmarks.catalog_killed", "--kills", "1", "--kinds", "power", "--seed", "2"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].split()[:2] == ["power", "1"]
