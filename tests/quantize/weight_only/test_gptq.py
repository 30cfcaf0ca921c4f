"""GPTQ: what the paper's elimination gives, less error than rounding alone, and nothing worse where it cannot help."""

from __future__ import annotations

import pytest
import torch

from edgeq.errors import QuantizeError
from edgeq.model.checkpoint.packed_weights import WeightScheme
from edgeq.quantize.weight_only.awq import Seen
from edgeq.quantize.weight_only.gptq import feed_back
from edgeq.quantize.weight_only.round import Rounded, group_products, searched
from edgeq.quantize.weight_only.stored_linear import StoredLinear

SCHEME = WeightScheme(4, 32)
INPUTS, OUTPUTS = 192, 40


def drawn(correlation: float, tokens: int = 600) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight, and activations that are the same for all channels to some part."""
    made = torch.Generator().manual_seed(0)
    weight = torch.randn(OUTPUTS, INPUTS, generator=made)
    shared = torch.randn(tokens, 1, generator=made)
    own = torch.randn(tokens, INPUTS, generator=made) * torch.rand(INPUTS, generator=made)
    return weight, correlation * shared + (1 - correlation) * own


def given(activations: torch.Tensor) -> Seen:
    seen = Seen(INPUTS)
    for part in torch.split(activations, 200):
        seen.add(part[None], 200)
    return seen


def fed_back(weight: torch.Tensor, activations: torch.Tensor) -> Rounded:
    layer = StoredLinear(weight, None)
    feed_back(layer, SCHEME, torch.float16, given(activations))
    assert layer.rounded is not None
    return layer.rounded


def plainly(weight: torch.Tensor, activations: torch.Tensor) -> Rounded:
    return searched(weight, SCHEME, torch.float16, group_products(activations, 32))


def errors(rounded: Rounded, weight: torch.Tensor, activations: torch.Tensor) -> torch.Tensor:
    """Of each output channel."""
    return (activations @ (rounded.weight() - weight).T).square().sum(0)


def eliminated(weight: torch.Tensor, activations: torch.Tensor, plain: Rounded) -> torch.Tensor:
    """Equations 2 and 3 of the paper, in float64: the inverse without each column that is done."""
    left, products = weight.double().clone(), activations.double().T @ activations.double()
    inverse = torch.linalg.inv(products + 0.01 * products.diagonal().mean() * torch.eye(INPUTS))
    scales = plain.scales.double().repeat_interleave(32, 1)
    values = torch.zeros(OUTPUTS, INPUTS)
    for column in products.diagonal().argsort(descending=True).tolist():
        values[:, column] = (left[:, column] / scales[:, column]).round().clamp(-8, 7)
        error = (left[:, column] - values[:, column] * scales[:, column]) / inverse[column, column]
        left -= error[:, None] * inverse[column]
        inverse -= torch.outer(inverse[:, column], inverse[column]) / inverse[column, column].clone()
    return values


def test_it_is_what_elimination_gives() -> None:
    """But for numbers that float32 puts on the other side of a half; more than 128 columns, so that blocks are met."""
    weight, activations = drawn(0.6)
    expected = eliminated(weight, activations, plainly(weight, activations))
    found = fed_back(weight, activations).values
    assert (found == expected).float().mean() > 0.99


def test_correlated_channels_make_up_for_each_other() -> None:
    weight, activations = drawn(0.9)
    plain, found = plainly(weight, activations), fed_back(weight, activations)
    assert torch.equal(found.scales, plain.scales)
    assert errors(found, weight, activations).sum() < errors(plain, weight, activations).sum() / 4


@pytest.mark.parametrize("tokens", [600, 3])
def test_no_output_gets_worse(tokens: int) -> None:
    """Where channels have nothing to do with each other, and where there are fewer tokens than channels."""
    weight, activations = drawn(0.0, tokens)
    worse = errors(fed_back(weight, activations), weight, activations)
    assert (worse <= 1.0001 * errors(plainly(weight, activations), weight, activations)).all()


def test_channels_that_were_never_seen_are_rounded() -> None:
    weight, activations = drawn(0.6)
    activations[:, 10:20] = 0
    found = fed_back(weight, activations)
    assert found.values[:, 10:20].abs().max() > 0
    assert torch.isfinite(found.weight()).all()
    nothing = fed_back(weight, torch.zeros(5, INPUTS))
    assert torch.equal(nothing.values, plainly(weight, torch.zeros(5, INPUTS)).values)


def test_activations_that_are_no_numbers_are_refused() -> None:
    weight, activations = drawn(0.6)
    activations[3, 5] = torch.nan
    with pytest.raises(QuantizeError, match="no inverse"):
        fed_back(weight, activations)
