"""RepQ-ViT (Li et al. 2022, arXiv:2212.08254, section 3.2): channels of one range behind a normalization.

Each channel j is calibrated by itself: step s_j over its range, zero point z_j = -low_j / s_j. One step s and one zero
point z for all, the means of these, are what an integer kernel wants. The difference goes into the normalization and
the linear layers behind it, with r1 = s_j / s and r2 = z_j - z: x' = (x + s_j r2) / r1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgeq.quantize.equalize.channel_ranges import Range
from edgeq.quantize.equalize.points import EqualizationPoint
from edgeq.quantize.equalize.rescale import Rescale

__all__ = ["repq", "repq_maps"]


def repq(points: Sequence[EqualizationPoint], ranges: Mapping[str, Range]) -> tuple[Rescale, ...]:
    """What RepQ-ViT does at each normalization that can be shifted; other points are left out.

    Args:
        points: of a graph.
        ranges: of their channels.
    """
    return tuple(
        Rescale.at(point, *repq_maps(ranges[point.name]))
        for point in points
        if point.kind == "normalization" and point.shifted
    )


def repq_maps(found: Range) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scale r1 and shift s_j r2 of each channel, float64 [channels] both; 1 and 0 for a channel that never moves."""
    span = found.high - found.low
    moves = span > 0.0
    scale, shift = np.ones(len(span)), np.zeros(len(span))
    if moves.any():
        zero = -found.low[moves] / span[moves]  # in parts of the span: a number of steps drops out of the map
        scale[moves] = span[moves] / span[moves].mean()
        shift[moves] = span[moves] * (zero - zero.mean())
    return scale, shift
