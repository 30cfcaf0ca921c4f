"""AWQ: less error where activations have large channels, and never more than rounding has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgeq.model.checkpoint.packed_weights import WeightScheme
from edgeq.quantize.weight_only.awq import Seen, quantize_block, scale_block
from edgeq.quantize.weight_only.points import find_points
from edgeq.quantize.weight_only.round import round_weight
from edgeq.quantize.weight_only.stored_linear import store_linears, stored_linear

SCHEME = WeightScheme(4, 32)


class Block(nn.Module):
    """A norm and a linear layer behind it."""

    def __init__(self, outlier: float, outputs: int = 48) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.layer = nn.RMSNorm(64, eps=1e-6), nn.Linear(64, outputs)
        self.requires_grad_(False)
        self.norm.weight[5] = outlier
        store_linears(self)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layer(self.norm(hidden))
        return found


def errors(outlier: float) -> tuple[float, float]:
    """Mean squared errors of a block's output: rounded to the nearest, and by AWQ."""
    block, hidden = Block(outlier), torch.randn(3, 40, 64, generator=torch.Generator().manual_seed(1))
    usual, given = block(hidden), block.norm(hidden)
    nearest = round_weight(block.layer.weight, SCHEME, torch.float16).weight()
    plain = float((given @ nearest.T + block.layer.bias - usual).square().mean())
    points, seen = find_points(block, lambda: block(hidden)), {"layer": Seen(32)}
    for prompt in given:
        seen["layer"].add(prompt[None], 40)
    scale_block(block, points, seen, {"layer": SCHEME}, torch.float16)
    torch.testing.assert_close(block(hidden), usual, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.cat(seen["layer"].rows), block.norm(hidden).flatten(0, 1))
    quantize_block(block, seen, {"layer": SCHEME}, torch.float16)
    made = stored_linear(block, "layer").rounded
    assert made is not None
    assert torch.equal(block.layer.weight, made.weight())
    return plain, float((block(hidden) - usual).square().mean())


def test_a_large_channel_is_made_finer() -> None:
    plain, found = errors(outlier=40.0)
    assert found < plain / 2


@pytest.mark.parametrize("outlier", [1.0, 0.0, 3.0])
def test_nothing_gets_worse(outlier: float) -> None:
    plain, found = errors(outlier)
    assert found <= plain


def test_a_layer_that_no_prompt_reached_is_rounded() -> None:
    block = Block(1.0)
    expected = round_weight(block.layer.weight, SCHEME, torch.float16)
    seen = {"layer": Seen(32)}
    scale_block(block, find_points(block, lambda: block(torch.randn(1, 4, 64))), seen, {"layer": SCHEME}, torch.float16)
    quantize_block(block, seen, {"layer": SCHEME}, torch.float16)
    assert torch.equal(block.layer.weight, expected.weight())


class _Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """How many numbers the largest tensor in floating point has that anything gives."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and found.is_floating_point():
            self.numbers = max(self.numbers, found.numel())
        return found


def test_no_weight_is_in_memory_as_a_whole_but_the_stored_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """While places are found, scales are tried, and weights are rounded."""
    monkeypatch.setattr("edgeq.quantize.weight_only.stored_linear._NUMBERS", 64 * 128)
    block = Block(40.0, outputs=2048)
    hidden = torch.randn(1, 20, 64)
    with _Largest() as largest:
        points, seen = find_points(block, lambda: block(hidden)), {"layer": Seen(32)}
        seen["layer"].add(block.norm(hidden), 20)
        scale_block(block, points, seen, {"layer": SCHEME}, torch.float16)
        quantize_block(block, seen, {"layer": SCHEME}, torch.float16)
    assert len(points) == 1
    assert largest.numbers < 2048 * 64 / 2
    with _Largest() as largest:
        _ = block.layer.weight
    assert largest.numbers == 2048 * 64
