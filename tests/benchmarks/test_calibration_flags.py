"""What `make bench-calibration` measures by itself, and what it is told to."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import calibration


def test_both_parts_are_measured_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []

    def note(part: str) -> tuple[dict[str, object], str]:
        measured.append(part)
        return {}, part

    for part in calibration.PARTS:
        monkeypatch.setattr(calibration, f"_{part}", lambda *_, part=part: note(part))
    place = ["--data", str(tmp_path), "--cache", str(tmp_path / "cache")]
    assert calibration.main([*place]) == 0
    assert calibration.main(["quality", *place]) == 0
    assert measured == ["speed", "quality", "quality"]


def test_missing_data_are_said_to_be_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert calibration.main(["--data", str(tmp_path / "nowhere")]) == 2
    assert "nowhere is not there" in capsys.readouterr().err
