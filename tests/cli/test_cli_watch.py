"""`edgeq watch`: reports beside images, and a second run that finds nothing to do."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from classifier_bundle import classifier_bundle
from command import Edgeq, assert_refused
from pictures import cut_short, draw_pictures

from edgeq.service.report import Report
from edgeq.service.watch import ImageFailure, ImageReport

if TYPE_CHECKING:
    from edgeq.pipeline.vlm import PreparedVlm

QUICK = ("--once", "--interval", "0.001", "--timeout", "0", "--threads", "1", "--backend", "onnxruntime")


@pytest.fixture
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier_bundle(tmp_path_factory)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures, the third in the order of their times broken."""
    folder = draw_pictures(tmp_path / "drawn", each=1) / "red"
    for second, colour in enumerate(("green", "blue", "red")):
        path = folder.parent / colour / f"{colour}-000.jpg"
        os.utime(path.rename(folder / path.name), (second, second))
    cut_short(folder / "red-000.jpg")
    return folder


def test_each_image_gets_a_report(edgeq: Edgeq, bundle: Path, folder: Path) -> None:
    done = edgeq("watch", bundle, folder, *QUICK, "--json")
    assert done.status == 0
    told = json.loads(done.out)
    assert told["reports"] == ["green-000.jpg", "blue-000.jpg"]
    assert list(told["failures"]) == ["red-000.jpg"]
    for name in told["reports"]:
        assert ImageReport.load(folder / f"{name}.json").image == name
    assert "cannot be decoded" in ImageFailure.load(folder / "failed" / "red-000.jpg.json").reason
    again = edgeq("watch", bundle, folder, *QUICK, "--json")
    assert (json.loads(again.out)["reports"], json.loads(again.out)["failures"]) == ([], {})


def test_for_people(edgeq: Edgeq, bundle: Path, folder: Path) -> None:
    done = edgeq("watch", bundle, folder, *QUICK)
    lines = done.out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["green-000.jpg", "blue-000.jpg", "red-000.jpg"]
    assert "failed" in lines[2]


def test_a_language_model_writes_reports(edgeq: Edgeq, prepared_vlm: PreparedVlm, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "terms.yaml").write_text("version: edgeq.terms/1\nquestion: what is it?\ndamage: {crack: [crack]}\n")
    (tmp_path / "conf").write_text("version: edgeq.service/1\nmemory_gb: 2\nreserve_mib: 64\n")
    flags = ("--config", tmp_path / "conf", "--terms", tmp_path / "terms.yaml", "--max-new-tokens", "3")
    done = edgeq("watch", prepared_vlm.bundle, folder, *QUICK, *flags, "--json")
    assert done.status == 0, done.err
    report = ImageReport.load(folder / "green-000.jpg.json")
    assert isinstance(report.seen, Report)
    assert not report.seen.complete


def test_what_cannot_be_watched(edgeq: Edgeq, bundle: Path, tmp_path: Path) -> None:
    assert_refused(edgeq("watch", bundle, tmp_path / "nowhere"), "is no directory", status=75)
    assert_refused(edgeq("watch", bundle, tmp_path, "--json"), "--once")
    done = edgeq("watch", tmp_path, tmp_path, "--once")
    assert done.status == 75
    assert "neither a bundle nor a store" in done.err
