"""`benchmarks.sight`, and models with outlier channels: what they compute, what NF4 makes of it, order and tables."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from benchmarks.outlier_eyes import WIDE_ACTIVATIONS, WIDE_WEIGHTS, inject_outliers, vision_layers
from benchmarks.sight import Step, as_expected, order_table, steps, table
from edgeq.demo.vlm.story import VLM_WEIGHTS

PIXELS = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def loaded(directory: Path) -> Any:
    return transformers.AutoModelForImageTextToText.from_pretrained(
        directory, dtype=torch.float32, local_files_only=True
    ).eval()


def features(whole: Any) -> torch.Tensor:
    with torch.inference_mode():
        tokens: torch.Tensor = whole.model.vision_tower(pixel_values=PIXELS).last_hidden_state
    return tokens


def in_nf4(whole: Any) -> Any:
    """With the linear layers of its vision encoder rounded by bitsandbytes, as `transformers serve` has them."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    narrow = copy.deepcopy(whole)
    for layer in vision_layers(narrow):
        for module in layer.modules():
            if isinstance(module, torch.nn.Linear):
                stored, state = quantize_4bit(module.weight.data, blocksize=64, quant_type="nf4")
                module.weight.data = dequantize_4bit(stored, state)
    return narrow


def error(found: torch.Tensor, right: torch.Tensor) -> float:
    """Against what tells the tokens apart."""
    return float((found - right).norm() / (right - right.mean(dim=(0, 1))).norm())


@pytest.mark.parametrize("wider", [WIDE_WEIGHTS, WIDE_ACTIVATIONS], ids=["weights", "activations"])
def test_outliers_change_no_bit(wider: float, tmp_path: Path) -> None:
    plain = loaded(VLM_WEIGHTS)
    inject_outliers(VLM_WEIGHTS, tmp_path / "model", wider)
    outliers = loaded(tmp_path / "model")
    right = features(plain)
    assert torch.equal(features(outliers), right)
    weights = [next(iter(vision_layers(model))).mlp.fc1.weight[:, 3] for model in (plain, outliers)]
    assert torch.equal(weights[1] * wider, weights[0])
    lost_before, lost = error(features(in_nf4(plain)), right), error(features(in_nf4(outliers)), right)
    assert lost > 2 * lost_before
    if wider == WIDE_WEIGHTS:
        assert lost > 1.0  # nothing is left of what tells them apart


def test_only_powers_of_two(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no power of two"):
        inject_outliers(VLM_WEIGHTS, tmp_path / "model", 40.0)
    assert not (tmp_path / "model").exists()


def test_steps_are_paired() -> None:
    near, far = np.array([0.0, 1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0, 6.0])
    first, second = steps({"near": near, "far": far, "like near": near})
    assert (first.nearer, first.further) == ("near", "far")
    assert first.difference == pytest.approx(1.5)
    assert first.standard_error == pytest.approx(0.5)  # of 1, 1, 1 and 3
    assert first.z == pytest.approx(3.0)
    assert first.shown
    assert not second.shown


@pytest.mark.parametrize(("further", "z", "shown"), [(1.0, math.inf, True), (-1.0, -math.inf, False)])
def test_steps_of_one_length(further: float, z: float, shown: bool) -> None:
    (step,) = steps({"a": np.zeros(3), "b": np.full(3, further)})
    assert (step.z, step.shown) == (z, shown)


def row(target: str, verdict: str, expected: str | None = None) -> dict[str, Any]:
    return {"model": "plain", "target": target, "verdict": verdict, "expected": expected}


def test_what_is_as_expected() -> None:
    shown, unshown = Step("a", "b", 1.0, 0.1), Step("a", "b", 0.1, 1.0)
    assert as_expected([row("a", "sees", "sees"), row("b", "sees less", "sees less")], {"plain": [shown]})
    assert not as_expected([row("a", "sees", "sees"), row("b", "not shown", "sees less")], {"plain": [shown]})
    assert not as_expected([row("a", "sees"), row("b", "sees less")], {"plain": [unshown]})
    assert not as_expected([row("a", "not shown"), row("b", "not shown")], {"plain": [unshown]})
    assert as_expected([row("a", "sees less"), row("b", "sees less")], {"plain": [unshown]})


def test_tables() -> None:
    told = {
        "model": "plain",
        "target": "a",
        "right": 90.0,
        "drop": 1.25,
        "standard_error": 0.5,
        "same": 95.0,
        "kl": 0.00214,
        "verdict": "sees",
        "after": 40,
    }
    blind = {**told, "target": "b", "right": None, "kl": None}
    assert table([told, blind]).splitlines()[2:] == [
        "| plain | a | 90.0 | 1.2 (0.5) | 95.0 | 0.0021 | sees | 40 |",
        "| plain | b |  |  | 95.0 |  | sees | 40 |",
    ]
    found = steps({"a": np.array([0.0, 0.0]), "b": np.array([1.0, 2.0])})
    assert order_table("plain", found).splitlines()[2:] == ["| a | b | 1.5 (0.5) | 3.0 |"]
