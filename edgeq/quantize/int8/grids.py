"""Scales and a placement into one grid for every tensor that gets a Q/DQ pair."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from edgeq.calibrate.scales import Scales, TensorRange
from edgeq.quantize.int8.grid import Grid, signed_grid, unsigned_grid
from edgeq.quantize.int8.placement import Placement

if TYPE_CHECKING:
    from edgeq.quantize.int8.base import Lowering

__all__ = ["choose_grids", "signed_grids", "unsigned_grids"]


def choose_grids(placement: Placement, scales: Scales, lowering: Lowering) -> dict[str, Grid]:
    """One grid for each tensor of `placement`.

    Tensors behind carriers get the union of their ranges; the two sides of an addition get the larger scale, and keep
    their own zero point (their grids then differ by a whole number of steps).

    Args:
        placement: of the pairs.
        scales: the ranges.
        lowering: of the backend.

    Raises:
        CalibrationError: a tensor has no range.
    """
    ranges = {name: scales.range_of(name, lowering.ranges_of) for name in placement.tensors}
    for members in placement.same_grid:
        present = [name for name in members if name in ranges]
        if present:
            union = _union(ranges[name] for name in present)
            ranges.update(dict.fromkeys(present, union))
    return lowering.grids(ranges, placement)


def _union(ranges: Iterable[TensorRange]) -> TensorRange:
    ranges = list(ranges)
    return TensorRange(
        amax=max(r.amax for r in ranges), low=min(r.low for r in ranges), high=max(r.high for r in ranges)
    )


def signed_grids(ranges: dict[str, TensorRange], placement: Placement) -> dict[str, Grid]:
    """Symmetric INT8."""
    amax = _spread({name: r.amax for name, r in ranges.items()}, placement)
    return {name: signed_grid(amax[name]) for name in ranges}


def unsigned_grids(ranges: dict[str, TensorRange], placement: Placement) -> dict[str, Grid]:
    """UINT8 over each range."""
    scale = _spread({name: (r.high - r.low) / 255.0 for name, r in ranges.items()}, placement)
    return {name: unsigned_grid(r.low, r.high, scale=scale[name]) for name, r in ranges.items()}


def _spread(sizes: dict[str, float], placement: Placement) -> dict[str, float]:
    """Give both sides of every addition, and whatever shares a grid with them, the larger of their sizes."""
    groups = _groups(placement)
    return {name: max(sizes[member] for member in groups.get(name, {name}) if member in sizes) for name in sizes}


def _groups(placement: Placement) -> dict[str, frozenset[str]]:
    sets = placement.groups()
    return {name: members for members in sets for name in members}
