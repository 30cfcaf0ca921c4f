"""The Python of pages that need something of their own to run on."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_catalogs
from doc_pages import ROOT, blocks


def run_python(page: str, number: int, **given: object) -> dict[str, object]:
    """Run a page's Python block by its number, with these names there already; what it leaves."""
    block = blocks(page, "python")[number]
    session = dict(given)
    exec(compile("\n" * (block.line - 1) + block.text, block.page, "exec"), session)
    return session


def test_memory_plan(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT / "tests" / "golden" / "vlm-configs")
    run_python("docs/memory-plan.md", 0)
    assert capsys.readouterr().out.startswith("True ")


def test_catalogs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    small_catalogs.folder(tmp_path / "photos", small_catalogs.files(7))
    small_catalogs.zipped(tmp_path / "more.zip", small_catalogs.files(3, first=7))
    encoder = small_catalogs.SimulatedEncoder()
    made = run_python("docs/catalog.md", 1, encoder=encoder, digest=small_catalogs.BUNDLE)
    assert len(made["numbers"]) == 10  # type: ignore[arg-type]
    assert Path(capsys.readouterr().out.strip()).name == "0000.png"
    left = run_python("docs/vector-databases.md", 0)
    assert left["columns"][0]["caption"].startswith("picture ")  # type: ignore[index]
