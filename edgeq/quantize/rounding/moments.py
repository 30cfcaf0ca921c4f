"""First and second moments of what a layer with weights reads: all that rounding has to know of the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.model.graph.wiring import attribute, operator

__all__ = ["LayerInput", "Moments", "layer_input"]

Array = NDArray[np.float32]


@dataclass
class Moments:
    """Sums over the rows that a layer multiplies with its weights. Their size does not depend on how many were added.

    Args:
        groups: of a convolution, 1 for any other layer.
        inputs: numbers in a row.

    Attributes:
        rows: how many were added.
    """

    groups: int
    inputs: int
    rows: int = 0
    _sum: NDArray[np.float64] = field(init=False)
    _products: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        """Nothing is counted yet."""
        self._sum = np.zeros((self.groups, self.inputs))
        self._products = np.zeros((self.groups, self.inputs, self.inputs))

    @property
    def nbytes(self) -> int:
        """What is held."""
        return self._sum.nbytes + self._products.nbytes

    def add(self, rows: Array) -> None:
        """Count rows, float32 [groups, n, inputs]."""
        self._sum += rows.sum(axis=1, dtype=np.float64)
        self._products += rows.transpose(0, 2, 1) @ rows
        self.rows += rows.shape[1]

    def about(self, *, mean: bool) -> NDArray[np.float64]:
        """Second moments, float64 [groups, inputs, inputs]: about zero, or about the mean (the covariance)."""
        second = self._products / max(self.rows, 1)
        if not mean:
            return second
        first = self._sum / max(self.rows, 1)
        return second - first[:, :, None] * first[:, None, :]


@dataclass(frozen=True)
class LayerInput:
    """How a layer's input becomes rows.

    Attributes:
        groups: of a convolution.
        kernel, strides, dilations, pads: of a convolution, all empty for a product of matrices; pads as in ONNX, first
            those before every axis.
    """

    groups: int = 1
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()

    def rows(self, values: Array, most: int) -> Array:
        """Rows evenly spread over places of the input, float32 [groups, n, inputs], n at most about `most`.

        Args:
            values: float32 [n, channels, ...] for a convolution, [..., inputs] for a product.
            most: 1 and more.
        """
        if not self.kernel:
            flat = values.reshape(-1, values.shape[-1])
            return flat[_spread(len(flat), most)][np.newaxis]
        axes = len(self.kernel)
        padded = np.pad(values, ((0, 0), (0, 0), *zip(self.pads[:axes], self.pads[axes:], strict=True)))
        reach = tuple((size - 1) * gap + 1 for size, gap in zip(self.kernel, self.dilations, strict=True))
        windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(2, 2 + axes)))
        windows = windows[(slice(None), slice(None), *(slice(None, None, step) for step in self.strides))]
        dilated: tuple[Any, ...] = (..., *(slice(None, None, gap) for gap in self.dilations))
        windows = windows[dilated]
        places = windows.shape[2 : 2 + axes]
        images, *where = np.unravel_index(_spread(len(values) * int(np.prod(places)), most), (len(values), *places))
        taken = np.moveaxis(windows, 1, 1 + axes)[(images, *where)]  # [n, channels, kernel ...]
        channels = taken.shape[1] // self.groups
        split = taken.reshape(len(taken), self.groups, channels * int(np.prod(self.kernel)))
        return np.ascontiguousarray(split.transpose(1, 0, 2))


def layer_input(node: onnx.NodeProto, weight: Sequence[int]) -> LayerInput | str:
    """How a layer's input becomes rows, or why that is not known.

    Args:
        node: Conv, Gemm or MatMul.
        weight: shape of its weight.
    """
    if operator(node) in ("Gemm", "MatMul"):
        if len(weight) != 2:
            return "its weight is no matrix"
        plain = not attribute(node, "transA", 0) and attribute(node, "alpha", 1.0) == 1.0
        return (
            LayerInput() if plain and attribute(node, "beta", 1.0) == 1.0 else "it is a Gemm with transA, alpha or beta"
        )
    if operator(node) != "Conv":
        return f"{operator(node)} is not one of Conv, Gemm and MatMul"
    if attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return "it pads by itself (auto_pad)"
    axes = len(weight) - 2
    ones, zeros = [1] * axes, [0] * (2 * axes)
    return LayerInput(
        groups=attribute(node, "group", 1),
        kernel=tuple(weight[2:]),
        strides=tuple(attribute(node, "strides", ones)),
        dilations=tuple(attribute(node, "dilations", ones)),
        pads=tuple(attribute(node, "pads", zeros)),
    )


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """At most `most` of the first `count` numbers, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))
