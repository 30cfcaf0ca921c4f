"""AWQ: less error where activations have large channels, and never more than rounding has."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgeq.model.checkpoint.packed_weights import WeightScheme
from edgeq.quantize.weight_only.awq import Seen, quantize_block, scale_block
from edgeq.quantize.weight_only.points import find_points
from edgeq.quantize.weight_only.round import round_weight

SCHEME = WeightScheme(4, 32)


class Block(nn.Module):
    """A norm and a linear layer behind it."""

    def __init__(self, outlier: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.layer = nn.RMSNorm(64, eps=1e-6), nn.Linear(64, 48)
        self.requires_grad_(False)
        self.norm.weight[5] = outlier

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
    made = quantize_block(block, seen, {"layer": SCHEME}, torch.float16)
    assert torch.equal(block.layer.weight, made["layer"].weight())
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
    assert torch.equal(quantize_block(block, seen, {"layer": SCHEME}, torch.float16)["layer"].values, expected.values)
