"""Which family of quantizers each kind of tensor gets, and how it is searched: the rows of a simulated table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from benchmarks.simulate.families import (
    Family,
    adalog,
    adalog_shifted,
    affine_range,
    channels,
    log2,
    logsqrt2,
    percentile_range,
    symmetric_range,
    twin_gelu,
    twin_softmax,
)
from benchmarks.simulate.products import Observed, Quantized
from benchmarks.simulate.search import Objective, search
from edgeq.plan.precision import WeightGranularity

__all__ = ["SCHEMES", "Bits", "Fitter", "Scheme"]


@dataclass(frozen=True)
class Bits:
    """Bits of weights and of activations: W6A6 is `Bits(6, 6)`."""

    weights: int
    activations: int

    def __str__(self) -> str:
        """As the papers write it."""
        return f"W{self.weights}A{self.activations}"


@dataclass(frozen=True)
class Scheme:
    """One way to quantize the products of a vision transformer.

    Attributes:
        name: for a table.
        objective: what the search makes small; None takes the first candidates, without a search.
        plain: for activations, query, key and value.
        softmax, gelu: for what comes from these.
    """

    name: str
    objective: Objective | None
    plain: Family = symmetric_range
    softmax: Family = symmetric_range
    gelu: Family = symmetric_range


SCHEMES: Final = (
    Scheme("base, min-max", None),
    Scheme("base, percentile", None, percentile_range, percentile_range, percentile_range),
    Scheme("search, output error", "output"),
    Scheme("search, Hessian", "hessian"),
    Scheme("Hessian + twin softmax", "hessian", softmax=twin_softmax),
    Scheme("Hessian + twin GELU", "hessian", gelu=twin_gelu),
    Scheme("Hessian + both twins", "hessian", softmax=twin_softmax, gelu=twin_gelu),
    Scheme("Hessian, zero points", "hessian", affine_range, affine_range, affine_range),
    Scheme("Hessian, zero points + log2 softmax", "hessian", affine_range, log2, affine_range),
    Scheme("Hessian, zero points + log-sqrt2 softmax", "hessian", affine_range, logsqrt2, affine_range),
    Scheme("Hessian, zero points + AdaLog softmax", "hessian", affine_range, adalog, affine_range),
    Scheme("Hessian, zero points + AdaLog softmax, GELU", "hessian", affine_range, adalog, adalog_shifted),
)
"""PTQ4ViT's steps on signed grids without a zero point, as its authors take them; then grids as ONNX Runtime has them,
alone and with logarithms for what is never negative."""


class Fitter:
    """Quantizers for the products of one network, each searched once however many schemes share it.

    Args:
        observed: what `benchmarks.simulate.products.observe` gives.
        weights: one step for a weight, as PTQ4ViT has it, or one for each output channel.
    """

    def __init__(self, observed: Mapping[int, Observed], *, weights: WeightGranularity = "per-tensor") -> None:
        self._observed = observed
        self._weights = weights
        self._done: dict[tuple[int, Family, Family, Objective | None, Bits], Quantized] = {}

    def fit(self, scheme: Scheme, bits: Bits) -> dict[int, Quantized]:
        """The quantizers of every product observed, by its place."""
        return {place: self._fit(place, scheme, bits) for place in self._observed}

    def _fit(self, place: int, scheme: Scheme, bits: Bits) -> Quantized:
        observed = self._observed[place]
        left: Family = getattr(scheme, observed.product.left)
        right = self._weight if observed.product.linear else scheme.plain
        key = (place, left, right, scheme.objective, bits)
        if key not in self._done:
            width = bits.weights if observed.product.linear else bits.activations
            lefts, rights = left(observed.left, bits.activations), right(observed.right, width)
            searched = scheme.objective and search(observed, lefts, rights, scheme.objective)
            self._done[key] = searched or Quantized(lefts[0], rights[0])
        return self._done[key]

    @property
    def _weight(self) -> Family:
        return channels if self._weights == "per-channel" else symmetric_range
