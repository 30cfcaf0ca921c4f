"""The Python of docs/other-engines.md runs as it stands, and answers as the whole model does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from talk import chatty_vlm
from vlm import IMAGE_TOKEN, in_four_bits

from edgeq.families.modules import read_modules
from edgeq.plan.rules import plan_modules
from edgeq.quantize.nf4.write import write_nf4

PAGE = Path(__file__).resolve().parents[2] / "docs" / "other-engines.md"


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model, with its language half where the page has it."""
    source = chatty_vlm(tmp_path / "whole")
    (tmp_path / "inspector").mkdir()
    write_nf4(source, plan_modules(read_modules(source)), tmp_path / "inspector" / "language")
    monkeypatch.chdir(tmp_path)
    return source


def test_one_device_text_and_image(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, image, _ = blocks()
    prompt = torch.tensor([[1, IMAGE_TOKEN, IMAGE_TOKEN, IMAGE_TOKEN, IMAGE_TOKEN, 40, 41, 42]])
    pixels = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(0)).half()
    reference = in_four_bits(whole)
    features = torch.cat(list(reference.get_image_features(pixels).pooler_output))
    session: dict[str, Any] = {"prompt": prompt, "image_token": IMAGE_TOKEN, "features": features}

    exec(compile(text, str(PAGE), "exec"), session)
    expected = reference.generate(input_ids=session["tokens"], max_new_tokens=20, do_sample=False)
    assert torch.equal(session["answer"], expected)
    assert session["tokenizer"].decode(expected[0]) in capsys.readouterr().out

    exec(compile(image, str(PAGE), "exec"), session)
    seen = reference.generate(input_ids=prompt, pixel_values=pixels, max_new_tokens=20, do_sample=False)
    assert torch.equal(session["answer"], seen[:, prompt.shape[1] :])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="two GPUs are not here")
@pytest.mark.usefixtures("whole")
def test_two_gpus() -> None:
    session: dict[str, Any] = {}
    exec(compile(blocks()[0].partition("\n")[0] + "\n" + blocks()[2], str(PAGE), "exec"), session)
    assert set(session["model"].hf_device_map.values()) <= {0, 1}
