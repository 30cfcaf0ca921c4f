"""The example of docs/extending/family.md: a file and its test, which are all that a family takes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import vlm
from family_contract import check_family
from vision_graphs import hf_features

from edgeq.export.vision_module import load_vision_module
from edgeq.families import registry
from edgeq.families.base import Family

PAGE = Path(__file__).resolve().parents[2] / "docs" / "extending" / "family.md"


def blocks() -> list[dict[str, Any]]:
    """What each Python block of the page defines."""
    sources = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = []
    for source in sources:
        names: dict[str, Any] = {"__name__": "example"}
        exec(compile(source, str(PAGE), "exec", dont_inherit=True), names)
        found.append(names)
    return found


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch) -> Family:
    """The example's, registered for one test."""
    found = [value for value in blocks()[0].values() if isinstance(value, Family)]
    assert len(found) == 1
    monkeypatch.setattr(registry, "FAMILIES", (*registry.FAMILIES, *found))
    return found[0]


def test_the_example_is_not_there_by_itself() -> None:
    assert registry.family_of("vipllava") is None


def test_the_example_keeps_to_the_contract(family: Family, tmp_path: Path) -> None:
    check_family(family, tmp_path)


@pytest.mark.usefixtures("family")
def test_the_tests_of_the_example_pass(tmp_path: Path) -> None:
    tests: list[Callable[[Path], None]] = [value for name, value in blocks()[1].items() if name.startswith("test_")]
    assert tests
    for test in tests:
        test(tmp_path)


@pytest.mark.usefixtures("family", "one_torch_thread")
@pytest.mark.parametrize("layers", [-2, [-2, -1]])
def test_its_features_are_those_of_transformers(tmp_path: Path, layers: int | list[int]) -> None:
    torch.manual_seed(0)
    config = transformers.VipLlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**vlm.VISION),
        text_config=transformers.LlamaConfig(**vlm.TEXT),
        vision_feature_layer=layers,
        image_token_index=vlm.IMAGE_TOKEN,
    )
    transformers.VipLlavaForConditionalGeneration(config).float().save_pretrained(tmp_path)
    pixels = np.random.default_rng(0).normal(size=(2, 3, 28, 28)).astype(np.float32)
    with torch.inference_mode():
        found = load_vision_module(tmp_path).module(torch.from_numpy(pixels)).numpy()
    assert found.shape == (2, 4, vlm.TEXT["hidden_size"])
    np.testing.assert_allclose(found, hf_features(tmp_path, pixels), rtol=0, atol=1e-5)
