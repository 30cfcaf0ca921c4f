"""Weights to integers: by hand, and against every choice of a scale."""

from __future__ import annotations

import itertools

import pytest
import torch

from edgeq.model.checkpoint.packed_weights import WeightScheme
from edgeq.quantize.weight_only import round as rounding
from edgeq.quantize.weight_only.round import group_products, round_weight, searched

INT4, INT8 = WeightScheme(4, 32), WeightScheme(8, None)


def test_by_hand() -> None:
    """The largest number, 7.5, asks for a scale of 1: it is cut to 7, -7.5 is rounded to the even -8."""
    weight = torch.zeros(1, 32)
    weight[0, :5] = torch.tensor([7.5, -7.5, 0.4, 0.6, -1.2])
    rounded = round_weight(weight, INT4, torch.float16)
    assert rounded.scales.tolist() == [[1.0]]
    assert rounded.values[0, :6].tolist() == [7, -8, 0, 1, -1, 0]
    assert rounded.weight()[0, :5].tolist() == [7, -8, 0, 1, -1]


@pytest.mark.parametrize("weight", [torch.zeros(2, 64), torch.full((2, 64), 1e-9)])
def test_a_group_without_a_scale_is_zero(weight: torch.Tensor) -> None:
    rounded = round_weight(weight, INT4, torch.float16)
    assert rounded.values.abs().max() == 0
    assert torch.isfinite(rounded.weight()).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scheme", [INT4, INT8])
def test_no_number_is_further_than_half_a_step(scheme: WeightScheme, dtype: torch.dtype) -> None:
    """But for the largest, which may be cut: half a step, and what the scale itself was rounded."""
    weight = torch.randn(8, 96, generator=torch.Generator().manual_seed(0))
    rounded = round_weight(weight, scheme, dtype)
    steps = rounded.scales.float().repeat_interleave(96 // rounded.scales.shape[1], 1)
    slack = 0.5 + (1 << scheme.bits) * torch.finfo(dtype).eps
    assert ((rounded.weight() - weight).abs() <= slack * steps).all()


def test_products_are_those_of_all_tokens() -> None:
    inputs = torch.randn(50, 64, generator=torch.Generator().manual_seed(1))
    found = group_products(inputs, 32)
    assert found.shape == (2, 32, 32)
    torch.testing.assert_close(found[1], inputs[:, 32:].T @ inputs[:, 32:])


def test_the_search_finds_the_best_share_of_each_group() -> None:
    drawn = torch.Generator().manual_seed(2)
    weight, inputs = torch.randn(3, 64, generator=drawn), torch.randn(200, 64, generator=drawn)
    inputs[:, 7] *= 20
    found = searched(weight, INT4, torch.float16, group_products(inputs, 32))
    for row, group in itertools.product(range(3), range(2)):
        cut = slice(32 * group, 32 * group + 32)

        def error(values: torch.Tensor, row: int = row, cut: slice = cut) -> float:
            return float(((inputs[:, cut] @ (values[row, cut] - weight[row, cut])) ** 2).sum())

        tried = [error(round_weight(weight, INT4, torch.float16, share).weight()) for share in rounding._SHARES]
        assert error(found.weight()) == pytest.approx(min(tried), rel=1e-3)
