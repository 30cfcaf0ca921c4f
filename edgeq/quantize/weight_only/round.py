"""Weights to symmetric integers with 16-bit scales, and how far what they give is from what the weights gave.

A scale is a share of what the largest number of its group asks for: with less, large numbers are cut off and all others
are finer. Which share is best is tried on the activations (the clipping of AWQ, arXiv 2306.00978): the error of a group
is d H d', where d is what rounding changed and H the activations' products, summed over all tokens. Needs torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import torch

from edgeq.model.checkpoint.packed_weights import WeightScheme

__all__ = ["Rounded", "group_products", "join_rounded", "round_weight", "searched"]

_SHARES: Final = (1.0, 15 / 14, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5)
"""Of the scale with which the largest number lies half a step beyond the last integer; 15/14 puts it on that."""


@dataclass(frozen=True)
class Rounded:
    """A weight in integers.

    Attributes:
        values: int8 [out, in].
        scales: [out, scales], in the checkpoint's 16-bit type.
        scheme: how it is stored.
    """

    values: torch.Tensor
    scales: torch.Tensor
    scheme: WeightScheme

    def weight(self, channels: slice = slice(None)) -> torch.Tensor:
        """What it stands for: float32 [out, in], or some output channels of that."""
        scales = self.scales[channels].float()
        groups = self.values[channels].float().reshape(*scales.shape, -1)
        return groups.mul_(scales[..., None]).flatten(1)


def round_weight(
    weight: torch.Tensor, scheme: WeightScheme, dtype: torch.dtype, shares: torch.Tensor | float = 1.0
) -> Rounded:
    """Round each number to the nearest integer of its group's grid.

    Args:
        weight: float32 [out, in].
        scheme: how it is stored.
        dtype: of the scales.
        shares: of the largest number's scale, one for all or [out, scales].
    """
    groups = weight.reshape(len(weight), scheme.scales(weight.shape[1]), -1)
    largest = groups.abs().amax(-1)
    scales = (largest * shares / (scheme.highest + 0.5)).to(dtype)
    # A group of zeros, or one so small that its scale is none in 16 bits, is zero.
    steps = torch.where(scales == 0, torch.inf, scales.float())
    values = (groups / steps[..., None]).round_().clamp_(scheme.lowest, scheme.highest)
    return Rounded(values.to(torch.int8).flatten(1), scales, scheme)


def join_rounded(parts: Iterable[Rounded]) -> Rounded:
    """One weight of some output channels after the other."""
    parts = list(parts)
    values, scales = torch.cat([part.values for part in parts]), torch.cat([part.scales for part in parts])
    return Rounded(values, scales, parts[0].scheme)


def group_products(inputs: torch.Tensor, group: int, before: torch.Tensor | None = None) -> torch.Tensor:
    """Sums over all tokens of the products of activations, within each group: float32 [groups, group, group].

    Args:
        inputs: float32 [tokens, in].
        group: numbers along `in` with one scale.
        before: of other tokens, which these are added to in place.
    """
    cut = inputs.reshape(len(inputs), -1, group).transpose(0, 1)
    return cut.transpose(1, 2) @ cut if before is None else before.baddbmm_(cut.transpose(1, 2), cut)


def searched(weight: torch.Tensor, scheme: WeightScheme, dtype: torch.dtype, products: torch.Tensor) -> Rounded:
    """As `round_weight`, with the share for each group that changes least of what its activations give.

    Args:
        weight: float32 [out, in].
        scheme: in groups.
        dtype: of the scales.
        products: from `group_products`.
    """
    return round_weight(weight, scheme, dtype, _best_shares(weight, scheme, dtype, products))


def _best_shares(
    weight: torch.Tensor, scheme: WeightScheme, dtype: torch.dtype, products: torch.Tensor
) -> torch.Tensor:
    """[out, groups]."""
    least = torch.full((len(weight), len(products)), torch.inf)
    shares = torch.ones_like(least)
    for share in _SHARES:
        rounded = round_weight(weight, scheme, dtype, share)
        change = rounded.weight().sub_(weight).reshape(len(weight), len(products), -1).transpose(0, 1)
        error = ((change @ products) * change).sum(-1).T
        better = error < least
        least, shares = torch.where(better, error, least), torch.where(better, share, shares)
    return shares
