"""Tables and warnings as a person sees them."""

from __future__ import annotations

import pytest

from edgeq.cli.console import print_table, print_warnings


def test_a_long_path_with_brackets_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/data/" + "flight-7/" * 12 + "[/bold]/[red]frame[0].png"
    print_table("", ("score", "image"), [("0.5", path)], numbers=("score",))
    assert path in "".join(capsys.readouterr().out.split())[len("scoreimage") :].replace("─", "")


def test_a_title_with_brackets_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("/models/[/bold]", ("a long header",), [("0.5",)], numbers=())
    assert capsys.readouterr().out.startswith("/models/[/bold]")


def test_brackets_in_a_warning_stay(capsys: pytest.CaptureFixture[str]) -> None:
    print_warnings(["output [/box] was left out"])
    assert capsys.readouterr().err.split() == ["warning:", "output", "[/box]", "was", "left", "out"]
