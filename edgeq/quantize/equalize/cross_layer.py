"""Cross-layer equalization (Nagel et al. 2019, arXiv:1906.04721, equation 11): convolutions' channels of like weights.

Channel j of what a convolution makes is divided by s_j = sqrt(a_j / b_j), where a_j is the largest weight that makes it
and b_j the largest that reads it; both are sqrt(a_j b_j) afterwards. Chains are gone through until nothing changes. The
scales are rounded to powers of two: so the network computes the same to the bit, as long as nothing is too small or too
large for its type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.model.graph.wiring import Wiring, label
from edgeq.quantize.equalize.points import EqualizationPoint
from edgeq.quantize.equalize.rescale import Rescale

__all__ = ["UNEVEN", "cross_layer", "unevenness"]

UNEVEN: Final = 16.0
"""So many times the usual scale a channel's must be for equalization to be worth a trial: a grid that spans it leaves a
usual channel at most 16 of its 256 steps."""

_MOST_SWEEPS: Final = 50
_SETTLED: Final = 0.01  # of the logarithm: below what rounding to a power of two takes

Vector = NDArray[np.float64]


def cross_layer(model: onnx.ModelProto, points: Sequence[EqualizationPoint]) -> tuple[Rescale, ...]:
    """What the equalization does at each point; one where nothing changes is left out.

    Args:
        model: whose weights are looked at.
        points: between convolutions of that graph, in its order.
    """
    scales = _scales(model, points)
    rounded = (Rescale.at(point, np.exp2(np.round(np.log2(scales[point.name])))) for point in points)
    return tuple(change for change in rounded if (change.scale != 1.0).any())


def unevenness(model: onnx.ModelProto, points: Sequence[EqualizationPoint]) -> float:
    """The largest scale of any channel beside the median of its point's; 1 where there is no point."""
    scales = _scales(model, points)
    return max((float(scale.max() / np.median(scale)) for scale in scales.values()), default=1.0)


def _scales(model: onnx.ModelProto, points: Sequence[EqualizationPoint]) -> dict[str, Vector]:
    """The scale of each channel, float64 [channels] by point; 1 for one that no weight makes or reads."""
    weights = _Weights(model, points)
    scales = {point.name: np.ones(point.channels) for point in points}
    for _ in range(_MOST_SWEEPS):
        moved = 0.0
        for point in points:
            above, below = weights.above(point, scales), weights.below(point, scales)
            used = (above > 0.0) & (below > 0.0)
            step = np.ones(point.channels)
            step[used] = np.sqrt(above[used] / below[used])
            scales[point.name] = scales[point.name] * step
            moved = max(moved, float(np.abs(np.log(step)).max()))
        if moved < _SETTLED:
            break
    return scales


class _Weights:
    """The largest weight between each output and each input channel of the convolutions around some points."""

    def __init__(self, model: onnx.ModelProto, points: Sequence[EqualizationPoint]) -> None:
        self._taken = {
            consumer.node: (point.name, consumer.weight.axis) for point in points for consumer in point.consumers
        }
        wiring, wanted = Wiring(model), {point.name for point in points} | self._taken.keys()
        self._largest: dict[str, NDArray[np.float32]] = {}
        for node in (node for node in wiring.nodes if label(node) in wanted):
            weight = wiring.constant(node.input[1])
            assert weight is not None, "it was a constant when the points were found"
            taps = tuple(range(2, weight.ndim))
            self._largest[label(node)] = np.abs(weight).max(axis=taps).astype(np.float32)

    def above(self, point: EqualizationPoint, scales: Mapping[str, Vector]) -> Vector:
        """The largest weight that makes each channel, under these scales."""
        made: Vector = self._scaled(point.name, scales).max(axis=1)
        return made

    def below(self, point: EqualizationPoint, scales: Mapping[str, Vector]) -> Vector:
        """The largest weight that reads each channel, under these scales."""
        read = (self._scaled(consumer.node, scales).max(axis=1 - consumer.weight.axis) for consumer in point.consumers)
        largest: Vector = np.max(list(read), axis=0)
        return largest

    def _scaled(self, node: str, scales: Mapping[str, Vector]) -> Vector:
        """The weights [out, in / group] of a node, whose point is called as it is."""
        value = self._largest[node].astype(np.float64)
        if node in scales:
            value = value / scales[node][:, None]
        if node in self._taken:
            name, axis = self._taken[node]
            value = value * (scales[name][:, None] if axis == 0 else scales[name][None, :])
        return value
