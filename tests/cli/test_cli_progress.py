"""Progress where there is no terminal: a line for each stage, and one every so often."""

from __future__ import annotations

import threading

import pytest
from rich.console import Console

from edgeq.cli import progress
from edgeq.cli.progress import ProgressLines, byte_bar, progress_and_words, progress_bars, status_line


class Clock:
    """Goes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_stage_is_named_once_and_then_every_ten_seconds() -> None:
    clock, lines = Clock(), list[str]()
    told = ProgressLines(lines.append, clock=clock, every_s=10.0)
    told.tick()
    for second in range(25):
        clock.now = 100.0 + second
        told.report("calibrate", second, 25)
    assert lines == ["calibrating", "calibrating: 10 of 25, 10 s", "calibrating: 20 of 25, 20 s"]


def test_a_stage_without_counts_still_speaks() -> None:
    clock, lines = Clock(), list[str]()
    told = ProgressLines(lines.append, clock=clock, every_s=10.0)
    told.report("open", 0, 0)
    clock.now += 61.0
    told.tick()
    assert lines == ["opening the model", "opening the model: 61 s"]


def test_two_stages_in_turns_do_not_flood_a_log() -> None:
    clock, lines = Clock(), list[str]()
    told = ProgressLines(lines.append, clock=clock, every_s=10.0)
    for _ in range(100):
        told.report("search", 1, 2)
        told.report("judge", 1, 2)
    assert lines == ["searching for layers to keep", "judging"]


def test_bytes_are_megabytes() -> None:
    clock, lines = Clock(), list[str]()
    told = ProgressLines(lines.append, clock=clock, every_s=10.0, unit=" MB", per_unit=1e6)
    told.report("checking", 0, 8_000_000_000)
    clock.now += 12.0
    told.report("checking", 3_000_000_000, 8_000_000_000)
    assert lines == ["checking", "checking: 3,000 of 8,000 MB, 12 s"]


def test_with_times_each_stage_ends_with_its_own() -> None:
    clock, lines = Clock(), list[str]()
    told = ProgressLines(lines.append, clock=clock, timed=True)
    told.report("open", 0, 0)
    clock.now += 2.5
    told.report("judge", 0, 1)
    clock.now += 1.0
    told.end()
    assert lines == ["opening the model", "opening the model took 2.5 s", "judging", "judging took 1.0 s"]


def test_an_encoder_goes_before_its_stage() -> None:
    lines: list[str] = []
    ProgressLines(lines.append).report("vision: build", 0, 0)
    assert lines == ["vision: building the engine"]


def test_a_thread_speaks_while_nothing_is_reported() -> None:
    """The stage reports once and then computes: the line comes all the same."""
    spoken = threading.Event()
    lines: list[str] = []

    def write(line: str) -> None:
        lines.append(line)
        if len(lines) > 1:
            spoken.set()

    told = ProgressLines(write, every_s=0.01)
    with told.kept_up():
        told.report("export", 0, 0)
        assert spoken.wait(30.0)
    assert lines[1].startswith("exporting, folding, proving parity: ")
    assert not [thread for thread in threading.enumerate() if thread.name == "edgeq-progress"]


def test_without_a_terminal_all_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars() as report:
        report("open", 0, 0)
    with byte_bar("packing") as report_bytes:
        report_bytes(1, 2)
    with status_line() as report:
        report("kernels", 1, 2)
    with progress_and_words() as (report, say):
        report("build", 0, 0)
        say("a word")
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == ["opening the model", "packing", "building the engine", "a word"], (
        "kernels are quick"
    )


def test_on_a_terminal_bars_are_drawn(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "Console", lambda **_: Console(stderr=True, force_terminal=True, width=100))
    with progress_bars() as report:
        report("open", 1, 2)
        report("judge", 2, 2)
    with byte_bar("packing") as report_bytes:
        report_bytes(1, 2)
    said = capsys.readouterr().err
    assert "\x1b[" in said
    assert "━" in said
    for word in ("opening the model", "judging", "packing"):
        assert word in said


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(progress, "Console", lambda **_: Console(stderr=True, force_terminal=True))
    with progress_bars() as report:
        report("open", 1, 2)
    assert capsys.readouterr().err == "opening the model\n"
