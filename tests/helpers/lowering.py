"""What the tests of lowered graphs are written with: nodes, weights, scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from edgeq.calibrate.scales import Scales, TensorRange, TensorScale

__all__ = ["drawn_weight", "node", "scales"]


def node(op: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
    """Named after what it makes."""
    return helper.make_node(op, list(inputs), [output], name=output, **attributes)


def drawn_weight(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    """Random weights that keep the size of what goes through them."""
    values: NDArray[np.float32] = (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    return values


def scales(ranges: Mapping[str, tuple[float, float]]) -> Scales:
    """As calibration with minmax leaves them, of tensors with these lowest and highest values."""
    tensors = {
        name: TensorScale(
            minimum=low,
            maximum=high,
            ranges={"minmax": TensorRange(amax=max(-low, high), low=low, high=high)},
            histogram_sha256="",
        )
        for name, (low, high) in ranges.items()
    }
    return Scales(graph_sha256="", preprocess_sha256="", images=1, method="minmax", tensors=tensors)
