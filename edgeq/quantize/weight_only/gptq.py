"""GPTQ (Frantar et al. 2022, arXiv 2210.17323): what rounding a column changes, the columns to come make up for.

A layer's columns are rounded one after the other, those first whose activations are largest; the error of each is
spread over those that are left, by the inverse of the activations' products. Scales of groups are searched before
(`round.searched`) and stay. An output channel that the sampled tokens say got worse by it keeps what `searched` found.
Needs torch, and memory for four matrices [in, in] in float32.
"""

from __future__ import annotations

from typing import Final

import torch

from edgeq.errors import QuantizeError
from edgeq.model.checkpoint.packed_weights import WeightScheme
from edgeq.quantize.weight_only.awq import Seen
from edgeq.quantize.weight_only.round import Rounded, join_rounded, searched
from edgeq.quantize.weight_only.stored_linear import StoredLinear

__all__ = ["feed_back"]

_DAMPING: Final = 0.01
"""Of the mean of the products' diagonal, added to it, as in the paper."""
_TRIES: Final = 5
_BLOCK: Final = 128
"""Columns after which the error is spread over all that are left."""


def feed_back(layer: StoredLinear, scheme: WeightScheme, dtype: torch.dtype, seen: Seen) -> None:
    """Round a layer; from then on it computes with what the integers stand for.

    Args:
        layer: changed in place.
        scheme: in groups.
        dtype: of the scales.
        seen: what the layer is given, with the products of all channels: `Seen(layer.in_features)`. They are used up.

    Raises:
        QuantizeError: the products have no inverse.
    """
    assert seen.products is not None
    products, tokens = seen.products[0], torch.cat(seen.rows)
    within = _diagonal_blocks(products, scheme.group or len(products))
    order = products.diagonal().argsort(descending=True)
    seen.products = None
    factor = _factor(products[order[:, None], order])
    del products
    parts = []
    for _, part in layer.parts():
        plain = searched(part, scheme, dtype, within)
        fed = Rounded(_round_columns(part, plain, order, factor), plain.scales, scheme)
        better = _error(fed, part, tokens) < _error(plain, part, tokens)
        parts.append(Rounded(torch.where(better[:, None], fed.values, plain.values), plain.scales, scheme))
    layer.round(join_rounded(parts))


def _diagonal_blocks(products: torch.Tensor, group: int) -> torch.Tensor:
    """The products within each group, [groups, group, group]."""
    starts = range(0, len(products), group)
    return torch.stack([products[start : start + group, start : start + group] for start in starts])


def _factor(products: torch.Tensor) -> torch.Tensor:
    """The upper factor U of the inverse, U'U, of damped products [in, in], which are used up."""
    diagonal = products.diagonal()
    mean = float(diagonal.mean())
    diagonal += torch.where(diagonal == 0, mean or 1.0, 0.0)  # a channel that was never seen spreads nothing
    damping = _DAMPING * (mean or 1.0)
    for _ in range(_TRIES):
        diagonal += damping
        lower, failed = torch.linalg.cholesky_ex(products)
        if not failed:
            inverse = torch.cholesky_inverse(lower)
            del lower
            upper, failed = torch.linalg.cholesky_ex(inverse, upper=True)
        if not failed:
            found: torch.Tensor = upper
            return found
        damping *= 10
    raise QuantizeError(
        "the activations' products have no inverse",
        causes=("a photograph makes the language model overflow",),
        next_step="--language int4-awq",
    )


def _round_columns(weight: torch.Tensor, plain: Rounded, order: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Integers, int8 [out, in], of float32 weights [out, in]."""
    group = weight.shape[1] // plain.scales.shape[1]
    scales = plain.scales.float().repeat_interleave(group, 1)[:, order].T.contiguous()
    steps = torch.where(scales == 0, torch.inf, scales)
    left, values = weight[:, order].T.contiguous(), torch.empty(weight.shape[::-1], dtype=torch.int8)
    for start in range(0, len(left), _BLOCK):
        end = min(start + _BLOCK, len(left))
        errors = torch.empty(end - start, left.shape[1])
        for column in range(start, end):
            integers = (left[column] / steps[column]).round_().clamp_(plain.scheme.lowest, plain.scheme.highest)
            values[column] = integers
            error = errors[column - start] = (left[column] - integers * scales[column]) / factor[column, column]
            left[column + 1 : end].addr_(factor[column, column + 1 : end], error, alpha=-1)
        left[end:].addmm_(factor[start:end, end:].T, errors, alpha=-1)
    found = torch.empty_like(values)
    found[order] = values
    return found.T.contiguous()


def _error(rounded: Rounded, weight: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Of each output channel over some tokens, squared: [out]."""
    return (tokens @ rounded.weight().sub_(weight).T).square_().sum(0)
