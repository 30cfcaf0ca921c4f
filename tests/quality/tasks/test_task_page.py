"""The page on tasks: its Python is run, and what it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from labels import labelled_by_csv

from edgeq.quality.tasks import base, multilabel

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "extending" / "task.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_its_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    labelled_by_csv(tmp_path / "evaluation", each=2)
    monkeypatch.chdir(tmp_path)
    (python,) = blocks("python")
    exec(compile(python, "task.md", "exec"), {})
    # The first image has no label, and gets the logit of those that have it: of two, one and three images with blue,
    # green and red, precision at their one threshold is 2/3, 1/2 and 3/4.
    lost = 100 * (1 - (2 / 3 + 1 / 2 + 3 / 4) / 3)
    assert capsys.readouterr().out == f"mAP: 100 %, {lost:.1f} points lost\n"


def test_its_registration_is_the_registrys() -> None:
    (line,) = blocks("")
    assert line in (ROOT / "edgeq" / "quality" / "tasks" / "registry.py").read_text(encoding="utf-8")


def test_what_it_names_is_there() -> None:
    table = PAGE.split("|---|---|\n")[1].split("\n\n")[0]
    named = [word for row in table.splitlines() for word in re.findall(r"`([\w.]+)`", row.split("|")[1])]
    assert len(named) > 8
    owner = ""
    for name in named:
        first, _, rest = name.partition(".")
        owner, attribute = (first, rest) if rest or first[0].isupper() else (owner, first)
        assert hasattr(multilabel, owner), name
        assert not attribute or hasattr(getattr(multilabel, owner), attribute), name
    for default in ("outputs", "features", "batch", "search_tally", "folder_classes"):
        assert hasattr(base.ImageTask, default)
