"""A linear layer over stored weights computes what torch's does, and holds no float32 copy."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgeq.model.checkpoint.packed_weights import WeightScheme
from edgeq.quantize.weight_only import stored_linear
from edgeq.quantize.weight_only.round import round_weight
from edgeq.quantize.weight_only.stored_linear import StoredLinear, store_linears


def made(outputs: int, bias: bool) -> tuple[nn.Linear, StoredLinear]:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Linear(64, outputs, bias=bias).half().requires_grad_(False))
    (plain,) = block
    store_linears(block)
    (stored,) = block
    assert isinstance(plain, nn.Linear)
    assert isinstance(stored, StoredLinear)
    return plain.float(), stored


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """512 channels of 64 inputs."""
    monkeypatch.setattr(stored_linear, "_NUMBERS", 512 * 64)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("outputs", [40, 512, 1100])
def test_it_computes_what_torch_does(outputs: int, bias: bool) -> None:
    """Fewer output channels than are taken at once, as many, and more."""
    plain, stored = made(outputs, bias)
    given = torch.randn(2, 3, 64)
    torch.testing.assert_close(stored(given), plain(given))
    torch.testing.assert_close(stored.weight, plain.weight)


def test_columns_and_rows() -> None:
    plain, stored = made(700, bias=True)
    stored.columns[3], stored.rows[650] = 4.0, 2.0
    expected = plain.weight.clone()
    expected[:, 3] *= 4
    expected[650] /= 2
    assert torch.equal(stored.weight, expected)
    given = torch.randn(5, 64)
    torch.testing.assert_close(stored(given), nn.functional.linear(given, expected, plain.bias))


def test_rounded_it_computes_with_integers() -> None:
    plain, stored = made(600, bias=False)
    rounded = round_weight(stored.weight, WeightScheme(4, 32), torch.float16)
    stored.round(rounded)
    assert not torch.equal(stored.weight, plain.weight)
    assert torch.equal(stored.weight, rounded.weight())


def test_the_stored_weight_is_neither_copied_nor_changed() -> None:
    weight = torch.randn(600, 64)
    kept, layer = weight.clone(), StoredLinear(weight, None)
    layer.columns *= 3.0
    layer(torch.randn(2, 64))
    for _, part in layer.parts():
        part.zero_()
    assert torch.equal(weight, kept)
    assert all(value.ndim == 1 for value in layer.state_dict().values())
