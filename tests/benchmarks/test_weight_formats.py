"""Weight formats beside each other: what is printed, what is a failure, and norms that are drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from vlm import write_vlm

from benchmarks.weight_formats import FORMATS, Row, holds, spread_norms, table


def rows(nearest: float, awq: float, gptq: float = 0.0) -> list[Row]:
    kl = {"INT4, to the nearest": nearest, "INT4, AWQ": awq, "INT4, GPTQ": gptq}
    return [Row("tiny", form, 4.125, 2.5, kl.get(form, 0.5), 90.0, 80.0) for form in FORMATS]


def test_awq_and_gptq_must_be_as_near_as_rounding() -> None:
    assert holds(rows(0.2, 0.2), "tiny")
    assert holds(rows(0.2, 0.1), "tiny")
    assert not holds(rows(0.1, 0.2), "tiny")
    assert not holds(rows(0.2, 0.1, gptq=0.3), "tiny")


def test_every_format_has_a_line() -> None:
    lines = table(rows(0.02, 0.01)).splitlines()
    assert "| tiny | INT4, AWQ | 4.12 | 2.50 | 0.01 | 90.0 | 80.0 |" in lines
    assert len(lines) == 2 + len(FORMATS)


@pytest.mark.usefixtures("one_torch_thread")
def test_norms_are_spread_and_the_vision_tower_is_left(tmp_path: Path) -> None:
    directory = write_vlm(tmp_path / "model", "llava")
    before = load_file(directory / "model.safetensors")
    spread_norms(directory, 0.5)
    after = load_file(directory / "model.safetensors")
    norms = [name for name in after if "language_model" in name and name.endswith("norm.weight")]
    assert len(norms) == 5
    logarithms = torch.cat([after[name].float().log() for name in norms])
    assert logarithms.std() == pytest.approx(0.5, rel=0.2)
    assert all(torch.equal(after[name], before[name]) for name in after if "vision_tower" in name)
