"""Rescale channels of a graph without changing what it computes: x = scale x' - shift, taken back by the layers that
read x.

The layer that makes x takes on x' = (x + shift) / scale: its weight is divided, its bias gets the shift and is divided.
A linear layer behind it that computes x W + b computes x' (scale W) + (b - shift W) from then on, which is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.errors import QuantizeError
from edgeq.model.graph.wiring import Wiring, label
from edgeq.quantize.equalize.channel_ranges import Range
from edgeq.quantize.equalize.points import Consumer, EqualizationPoint, Place

__all__ = ["Rescale", "consumer_weights", "rescale"]

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Rescale:
    """What is done at a point.

    Attributes:
        point: where.
        scale: float64 [channels], > 0; 1 where a channel cannot be scaled.
        shift: float64 [channels]; 0 where it cannot be shifted.
    """

    point: EqualizationPoint
    scale: Vector
    shift: Vector

    @classmethod
    def at(cls, point: EqualizationPoint, scale: Vector, shift: Vector | None = None) -> Rescale:
        """What is wanted, as far as the point allows it.

        Args:
            point: where.
            scale: wanted, float64 [channels], > 0.
            shift: wanted, float64 [channels]; None for none.
        """
        moved = np.zeros(point.channels) if shift is None or point.shifted is None else shift
        return cls(point, np.where(point.scalable, scale, 1.0), np.where(point.scalable, moved, 0.0))

    def applied(self, found: Range) -> Range:
        """The range of each channel afterwards."""
        return Range((found.low + self.shift) / self.scale, (found.high + self.shift) / self.scale)


def rescale(model: onnx.ModelProto, changes: Sequence[Rescale]) -> onnx.ModelProto:
    """A copy of `model` with channels rescaled; only constants differ, in the types that they had.

    Arithmetic is in float64.

    Raises:
        QuantizeError: a constant does not fit in its type any more.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    wiring = Wiring(made)
    constants = _Constants(wiring)
    for change in changes:
        _rescale_point(constants, change)
    wiring.finish()
    return made


def consumer_weights(model: onnx.ModelProto, point: EqualizationPoint, layers: frozenset[str]) -> Vector:
    """The largest magnitude of the weights that read each channel, float64 [channels], over the consumers in `layers`.

    A channel that none of them reads has 0.

    Args:
        model: with its weights in memory.
        point: whose consumers are looked at.
        layers: names of those that count.
    """
    constants, largest = _Constants(Wiring(model)), np.zeros(point.channels)
    for consumer in point.consumers:
        if consumer.node in layers:
            rows = np.abs(np.moveaxis(constants.read(consumer.weight), consumer.weight.axis, 0)).max(axis=1)
            read = consumer.channels >= 0
            np.maximum.at(largest, consumer.channels[read], rows[read])
    return largest


def _rescale_point(constants: _Constants, change: Rescale) -> None:
    point, scale, shift = change.point, change.scale, change.shift
    for place in point.divided:
        value = constants.read(place) if constants.has(place) else np.zeros(point.channels)
        added = shift if place == point.shifted else 0.0
        constants.write(place, (value + added) / _along(scale, value, place.axis))
    for consumer in point.consumers:
        _take_back(constants, consumer, scale, shift)


def _take_back(constants: _Constants, consumer: Consumer, scale: Vector, shift: Vector) -> None:
    """The consumer's side; input channels that are not of this point (-1) read the neutral last place."""
    weight = constants.read(consumer.weight)
    if consumer.bias is not None and shift.any():
        moved = np.append(shift, 0.0)[consumer.channels]
        bias = constants.read(consumer.bias)
        constants.write(consumer.bias, bias - np.tensordot(moved, weight, axes=(0, consumer.weight.axis)))
    factor = np.append(scale, 1.0)[consumer.channels]
    constants.write(consumer.weight, weight * _along(factor, weight, consumer.weight.axis))


def _along(values: Vector, other: Vector, axis: int) -> Vector:
    shape = [1] * other.ndim
    shape[axis] = -1
    return values.reshape(shape)


class _Constants:
    """The constants of a graph by place."""

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._nodes = {label(node): node for node in wiring.nodes}

    def has(self, place: Place) -> bool:
        """Whether the node has such an input."""
        inputs = self._nodes[place.node].input
        return len(inputs) > place.index and bool(inputs[place.index])

    def read(self, place: Place) -> Vector:
        """The value in float64."""
        return self._stored(place).astype(np.float64)

    def write(self, place: Place, exact: Vector) -> None:
        """Store a value in the type of the constant before, or of the node's weight where there was none."""
        kind = self._stored(place if self.has(place) else Place(place.node, 1, -1)).dtype
        with np.errstate(over="ignore"):
            value = exact.astype(kind)
        if not np.isfinite(value).all():
            raise QuantizeError(
                f"the rescaled constants of {place.node} do not fit in {kind}",
                causes=("a channel's range is next to nothing beside the others'",),
            )
        self._wiring.store(self._nodes[place.node], place.index, value, f"{place.node}.rescaled.{place.index}")

    def _stored(self, place: Place) -> NDArray[np.floating]:
        value = self._wiring.constant(self._nodes[place.node].input[place.index])
        assert value is not None, f"{place} was a constant when the point was found"
        return value
