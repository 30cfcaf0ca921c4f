"""`edgeq report`: where it writes, and what it says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command import Edgeq, assert_refused

OLD = Path(__file__).resolve().parents[1] / "golden" / "bundles-0.1.0"


def test_a_page_where_nothing_else_is_said(edgeq: Edgeq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = edgeq("report", OLD / "classifier")
    page = (tmp_path / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert (done.status, done.out) == (0, f"report.html: {len(page.encode()) / 1e3:,.0f} kB. It needs no other file.\n")


def test_in_json_and_markdown_and_it_is_replaced(edgeq: Edgeq, tmp_path: Path) -> None:
    output = tmp_path / "report.md"
    output.write_text("old")
    told = json.loads(edgeq("report", OLD / "vlm", "-o", output, "--json").out)
    assert told == {"version": "edgeq.report/1", "output": str(output), "bytes": output.stat().st_size}
    assert output.read_text().startswith("# vlm\n")


def test_two_bundles(edgeq: Edgeq, tmp_path: Path) -> None:
    output = tmp_path / "two.html"
    assert edgeq("report", OLD / "vlm", OLD / "classifier", "-o", output).status == 0
    assert "<h1>vlm and classifier</h1>" in output.read_text()


def test_what_cannot_be_told_is_refused(edgeq: Edgeq, tmp_path: Path) -> None:
    output = tmp_path / "report.html"
    (tmp_path / "empty").mkdir()
    assert_refused(edgeq("report", tmp_path / "empty", "-o", output), "is not a bundle")
    assert_refused(edgeq("report", OLD / "vlm", "-o", tmp_path / "report.pdf"), "ends in .html")
    inside = shutil.copytree(OLD / "vlm", tmp_path / "bundle")
    assert_refused(edgeq("report", OLD / "classifier", inside, "-o", inside / "a.html"), "would lie in the bundle")
    assert_refused(edgeq("report", OLD / "vlm", "--images", tmp_path / "none", "-o", output), "none")
    assert not output.exists()
