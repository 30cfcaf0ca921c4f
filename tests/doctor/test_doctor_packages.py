"""Extras by what installed packages say of themselves: real metadata, made for the test."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from edgeq.doctor.packages import Requirement, package_findings, parse_requirement, python_finding

EDGEQ = """Requires-Dist: made-up-base>=1.2
Provides-Extra: device
Requires-Dist: made-up-engine<2,>=1.19; extra == 'device'
Provides-Extra: language
Requires-Dist: made-up-torch>=2.9,<3; extra == "language"
Requires-Dist: made-up-bits (>=0.48) ; extra == "language"
"""
ALL = {"made-up-base": "1.10", "made-up-engine": "1.31.1", "made-up-torch": "2.9.0+cu126", "made-up-bits": "0.50.2"}


def install(directory: Path, packages: dict[str, str], edgeq: str = EDGEQ) -> None:
    """Metadata of packages, edgeq's own among them."""
    for name, version in {"edgeq": "0.1.0", **packages}.items():
        place = directory / f"{name.replace('-', '_')}-{version}.dist-info"
        place.mkdir()
        needs = edgeq if name == "edgeq" else ""
        (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is looked into first."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_all_is_there(site: Path) -> None:
    install(site, ALL)
    edgeq, extras = package_findings(language=True)
    assert (edgeq.status, extras.status) == ("ok", "ok")
    assert extras.seen == "complete: device, language"


@pytest.mark.parametrize(("nf4", "status"), [(True, "missing"), (False, "ok")])
def test_bitsandbytes_is_needed_for_nf4_alone(site: Path, nf4: bool, status: str) -> None:
    install(site, ALL, EDGEQ.replace("made-up-bits (>=0.48)", "bitsandbytes>=1000"))
    assert package_findings(language=True, nf4=nf4)[1].status == status


@pytest.mark.parametrize(("language", "status"), [(True, "missing"), (False, "ok")])
def test_an_extra_that_is_not_complete(site: Path, language: bool, status: str) -> None:
    install(site, {**ALL, "made-up-bits": "0.47.9"})
    _, extras = package_findings(language=language)
    assert extras.status == status
    assert extras.seen == "complete: device; language lacks made-up-bits 0.47.9, which is not >=0.48"


def test_nothing_but_edgeq(site: Path) -> None:
    install(site, {})
    edgeq, extras = package_findings(language=False)
    assert (edgeq.status, "lacking: made-up-base" in edgeq.seen) == ("missing", True)
    assert extras.seen == "complete: none; device lacks made-up-engine; language lacks made-up-torch, made-up-bits"


def test_1_9_is_older_than_1_19(site: Path) -> None:
    """As text it would not be."""
    install(site, {**ALL, "made-up-engine": "1.9.0"})
    assert "device lacks made-up-engine 1.9.0" in package_findings(language=False)[1].seen


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("rich", Requirement("rich", "", "")),
        ("onnx<2,>=1.17; extra == 'quantize'", Requirement("onnx", "<2,>=1.17", "quantize")),
        ('a-b.c[d,e] (>=1.0) ; extra == "x"', Requirement("a-b.c", ">=1.0", "x")),
    ],
)
def test_lines_of_metadata(line: str, expected: Requirement) -> None:
    assert parse_requirement(line) == expected


def test_a_line_that_is_none() -> None:
    with pytest.raises(ValueError, match="is no requirement"):
        parse_requirement("== 3")


def test_a_range_that_edgeq_does_not_use_is_not_judged(site: Path) -> None:
    install(site, ALL, "Requires-Dist: made-up-base~=0.1\n")
    assert package_findings(language=False)[0].status == "ok"


def test_this_python() -> None:
    found = python_finding()
    assert found.seen.startswith(f"Python {platform.python_version()} on ")
    assert found.status in ("ok", "warning")


def test_another_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    found = python_finding()
    assert (found.status, "riscv64" in found.seen) == ("warning", True)
