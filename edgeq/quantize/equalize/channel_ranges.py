"""The range of every channel that a point's consumers read, over some images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.calibrate.observe import with_outputs
from edgeq.calibrate.samples import Array
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import CalibrationError
from edgeq.quantize.equalize.points import EqualizationPoint

__all__ = ["Range", "channel_ranges"]


@dataclass(frozen=True)
class Range:
    """Smallest and largest value of each channel, float64 [channels] both; 0 where nothing reads a channel."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @property
    def largest(self) -> NDArray[np.float64]:
        """The largest magnitude of each channel."""
        return np.maximum(np.abs(self.low), np.abs(self.high))


def channel_ranges(
    model: onnx.ModelProto,
    points: Sequence[EqualizationPoint],
    batches: Iterable[Array],
    *,
    threads: int | None = None,
) -> dict[str, Range]:
    """The ranges by the name of the point, over all images.

    Each image is run by itself, so that batches do not matter.

    Args:
        model: FP32; it is not changed.
        points: of that graph.
        batches: of images, float32 [n, 3, H, W], or of captions of one length, int64 [n, length].
        threads: of one operator; None takes every processor there is.

    Raises:
        CalibrationError: no image, or a value is NaN or infinite.
    """
    tensors = tuple(dict.fromkeys(consumer.tensor for point in points for consumer in point.consumers))
    engine = OnnxRuntimeEngine(with_outputs(model, tensors).SerializeToString(), threads=threads, memory_pattern=False)
    ends: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    for image in (batch[place : place + 1] for batch in batches for place in range(len(batch))):
        for tensor, values in engine.run({engine.inputs[0]: image}, tensors).items():
            rows = values.reshape(-1, values.shape[-1])
            low, high = rows.min(axis=0).astype(np.float64), rows.max(axis=0).astype(np.float64)
            before = ends.get(tensor, (low, high))
            ends[tensor] = np.minimum(before[0], low), np.maximum(before[1], high)
    _check(ends, tensors)
    return {point.name: _of_point(point, ends) for point in points}


def _check(ends: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]], tensors: Sequence[str]) -> None:
    for tensor in tensors:
        if tensor not in ends:
            raise CalibrationError("no sample was seen", expected="some calibration images")
        if not all(np.isfinite(end).all() for end in ends[tensor]):
            raise CalibrationError(f"tensor {tensor} is NaN or infinite", expected="finite values on real images")


def _of_point(point: EqualizationPoint, ends: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]) -> Range:
    low, high = np.full(point.channels, np.inf), np.full(point.channels, -np.inf)
    for consumer in point.consumers:
        read = consumer.channels >= 0
        lows, highs = ends[consumer.tensor]
        np.minimum.at(low, consumer.channels[read], lows[read])
        np.maximum.at(high, consumer.channels[read], highs[read])
    return Range(np.where(np.isfinite(low), low, 0.0), np.where(np.isfinite(high), high, 0.0))
