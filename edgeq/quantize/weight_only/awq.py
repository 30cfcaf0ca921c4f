"""AWQ (Lin et al. 2023, arXiv 2306.00978): channels that activations make large are made finer before rounding.

Each place of a block where channels can be scaled (`points`) is given the scales with which rounding changes least of
what the linear layers there give for the activations of image-and-question prompts: a power of each channel's mean
magnitude, alone or divided by the remaining power of its weights' magnitude. The power 0 is rounding as it is, so that
on these activations nothing gets worse. Then the groups' scales are searched (`round.searched`). Needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import nn

from edgeq.engine.heap import trim_heap
from edgeq.model.checkpoint.packed_weights import WeightScheme
from edgeq.quantize.weight_only.points import ScalePoint
from edgeq.quantize.weight_only.round import group_products, join_rounded, round_weight, searched
from edgeq.quantize.weight_only.stored_linear import StoredLinear, stored_linear

__all__ = ["Seen", "quantize_block", "round_unseen", "scale_block"]

_STEPS: Final = 10
_TINY: Final = 1e-4
"""No channel's scale is less; it stands for a channel that was never seen."""


@dataclass
class Seen:
    """What a linear layer was given.

    Attributes:
        group: numbers along its input with one scale.
        rows: some tokens, float32 [tokens, in].
        total: sums of magnitudes, [in].
        tokens: how many they are of.
        products: `group_products` of all tokens.
    """

    group: int
    rows: list[torch.Tensor] = field(default_factory=list)
    total: torch.Tensor | None = None
    tokens: int = 0
    products: torch.Tensor | None = None

    def add(self, inputs: torch.Tensor, sampled: int) -> None:
        """Count a prompt's activations [1, tokens, in], and sample some of its tokens, evenly."""
        flat = inputs.reshape(-1, inputs.shape[-1]).float()
        total = flat.abs().sum(0)
        self.total = total if self.total is None else self.total + total
        self.products = group_products(flat, self.group, self.products)
        self.tokens += len(flat)
        places = torch.linspace(0, len(flat) - 1, min(sampled, len(flat))).round().long()
        self.rows.append(flat[places])

    def mean(self) -> torch.Tensor:
        """Mean magnitude of each channel, float32 [in]."""
        assert self.total is not None
        return self.total / self.tokens

    def scaled(self, factors: torch.Tensor) -> None:
        """The activations are divided by `factors` [in] from now on."""
        assert self.total is not None
        assert self.products is not None
        self.rows = [rows / factors for rows in self.rows]
        self.total = self.total / factors
        cut = factors.reshape(-1, self.group)
        self.products = self.products / (cut[:, :, None] * cut[:, None, :])


def scale_block(
    block: nn.Module,
    points: Sequence[ScalePoint],
    seen: Mapping[str, Seen],
    schemes: Mapping[str, WeightScheme],
    dtype: torch.dtype,
) -> None:
    """Scale the channels of a block where that helps rounding; what it computes stays the same.

    Args:
        block: with linear layers from `store_linears`, changed in place.
        points: from `find_points`.
        seen: by linear layer that will be rounded; the activations follow the scales.
        schemes: how these layers are stored.
        dtype: of the checkpoint.
    """
    for point in points:
        readers = [name for name in point.readers if name in schemes and seen[name].tokens]
        if not readers or (point.kind == "rows" and point.source not in schemes):
            continue
        scales = _best(block, point, readers, seen, schemes, dtype)
        if scales is None:
            continue
        scales = point.apply(block, scales, dtype)
        for name in readers:
            seen[name].scaled(point.spread(scales, len(seen[name].mean())))
        trim_heap()


def quantize_block(
    block: nn.Module, seen: Mapping[str, Seen], schemes: Mapping[str, WeightScheme], dtype: torch.dtype
) -> None:
    """Round a block's linear layers; from then on it computes with what the integers stand for.

    Args:
        block: with linear layers from `store_linears`, changed in place.
        seen: what each layer is given.
        schemes: how each layer is stored.
        dtype: of the scales.
    """
    for name, scheme in schemes.items():
        layer, products = stored_linear(block, name), seen[name].products
        seen[name].rows.clear()
        if products is None:
            round_unseen(layer, scheme, dtype)
        else:
            layer.round(join_rounded(searched(part, scheme, dtype, products) for _, part in layer.parts()))
        trim_heap()


def round_unseen(layer: StoredLinear, scheme: WeightScheme, dtype: torch.dtype) -> None:
    """Round a layer that no prompt came by, as at cross-attention without an image; as `quantize_block`.

    Args:
        layer: changed in place.
        scheme: how it is stored.
        dtype: of the scales.
    """
    layer.round(join_rounded(round_weight(part, scheme, dtype) for _, part in layer.parts()))


def _best(
    block: nn.Module,
    point: ScalePoint,
    readers: Sequence[str],
    seen: Mapping[str, Seen],
    schemes: Mapping[str, WeightScheme],
    dtype: torch.dtype,
) -> torch.Tensor | None:
    """Scales of a place, [width]; None where it is best left as it is."""
    layers = {name: stored_linear(block, name) for name in readers}
    rows = {name: torch.cat(seen[name].rows) for name in readers}
    usual = {name: torch.cat([rows[name] @ part.T for _, part in layer.parts()], 1) for name, layer in layers.items()}
    magnitude = point.gathered(seen[readers[0]].mean()).clamp(min=_TINY)
    width = point.gathered(torch.stack([_mean_magnitude(layer) for layer in layers.values()]).mean(0)).clamp(min=_TINY)

    def error(scales: torch.Tensor) -> float:
        total = 0.0
        for name, layer in layers.items():
            factors, changed = point.spread(scales, layer.in_features), 0.0
            for channels, part in layer.parts():
                rounded = round_weight(part.mul_(factors), schemes[name], dtype).weight().div_(factors)
                changed += float((rows[name] @ rounded.T).sub_(usual[name][:, channels]).square_().sum())
            power = float(usual[name].square().sum().clamp(min=torch.finfo(torch.float32).tiny))
            total += changed / power
        return total

    least, best = error(torch.ones(point.width)), None
    for step in range(_STEPS):
        power = step / _STEPS
        for scales in (magnitude**power, magnitude**power / width ** (1 - power)):
            scales = scales / (scales.max() * scales.min()).sqrt()
            if (found := error(scales)) < least:
                least, best = found, scales
    return best


def _mean_magnitude(layer: StoredLinear) -> torch.Tensor:
    """Of the weights of each input channel, [in]."""
    total = torch.zeros(layer.in_features)
    for _, part in layer.parts():
        total += part.abs_().sum(0)
    return total / layer.out_features
