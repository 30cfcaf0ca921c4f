"""The INT8 layers whose rounding and bias can be corrected, and where a bias is measured; why others cannot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.model.graph.wiring import Wiring, attribute, label, operator
from edgeq.plan.precision import PrecisionPlan
from edgeq.quantize.int8.verify import int8_layers
from edgeq.quantize.rounding.moments import LayerInput, layer_input
from edgeq.quantize.search.pieces import Cut

__all__ = ["Layer", "Stretch", "find_layers", "stretches"]

_MOST_INPUTS: Final = 4608
"""Of a row: 512 channels of 3 x 3. The moments of a larger one would take more than 170 MB."""


@dataclass(frozen=True)
class Layer:
    """An INT8 layer with a constant weight.

    Attributes:
        name: of its node.
        position: of its node in the graph.
        source: the tensor that it reads.
        weight: as stored, float32 [...].
        axis: of the output channels in `weight`.
        reads: how its input becomes rows; why its rounding cannot be learned, where that is so.
        measured: name of the node behind which its bias is measured: its own, or the addition that alone reads it, so
            that the error of the other side is taken back too; empty where it has no bias to correct.
    """

    name: str
    position: int
    source: str
    weight: NDArray[np.float32]
    axis: int
    reads: LayerInput | str
    measured: str

    def by_group(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Numbers in the weight's shape, float64 [...], as float64 [groups, outputs, inputs]."""
        groups = self.reads.groups if isinstance(self.reads, LayerInput) else 1
        rows = np.moveaxis(values, self.axis, 0)
        return rows.reshape(groups, len(rows) // groups, -1)

    def as_stored(self, values: NDArray[np.int8]) -> NDArray[np.int8]:
        """The reverse of `by_group`: int8 [groups, outputs, inputs] to int8 [...], the weight's shape."""
        outputs = self.weight.shape[self.axis]
        rest = tuple(size for place, size in enumerate(self.weight.shape) if place != self.axis)
        return np.ascontiguousarray(np.moveaxis(values.reshape(outputs, *rest), 0, self.axis))


@dataclass(frozen=True)
class Stretch:
    """A piece of the graph with some layers.

    Attributes:
        target: the cut at which it ends; it begins where the one before ended.
        layers: in the graph's order.
    """

    target: str
    layers: tuple[Layer, ...]


def find_layers(model: onnx.ModelProto, plan: PrecisionPlan) -> tuple[tuple[Layer, ...], dict[str, str]]:
    """The layers to correct, in the graph's order, and those of which something is left as it is: name -> why.

    Args:
        model: FP32, every node named, its weights in memory.
        plan: for that graph.
    """
    wiring, wanted = Wiring(model), {decision.layer for decision in int8_layers(plan)}
    layers: list[Layer] = []
    left: dict[str, str] = {}
    for position, node in enumerate(wiring.nodes):
        if label(node) not in wanted:
            continue
        weight = wiring.constant(node.input[1])
        if weight is None:
            left[label(node)] = "its weight is computed"
            continue
        layer = _layer(model, wiring, node, position, weight)
        layers.append(layer)
        if isinstance(layer.reads, str):
            left[layer.name] = f"rounded to the nearest: {layer.reads}"
        elif not layer.measured:
            left[layer.name] = "no bias correction: a product of matrices has no bias of its own"
    return tuple(layers), left


def stretches(layers: Sequence[Layer], cuts: Sequence[Cut]) -> Iterator[Stretch]:
    """The pieces between cuts that have layers; one without is part of the one behind it.

    Args:
        layers: in the graph's order.
        cuts: of the same graph, the last its output.
    """
    left = list(layers)
    for cut in cuts[1:]:
        here = [layer for layer in left if layer.position < cut.position]
        if here:
            left = left[len(here) :]
            yield Stretch(cut.tensor, tuple(here))


def _layer(
    model: onnx.ModelProto, wiring: Wiring, node: onnx.NodeProto, position: int, weight: NDArray[np.float32]
) -> Layer:
    reads = layer_input(node, weight.shape)
    if not isinstance(reads, str) and node.input[0] == model.graph.input[0].name:
        reads = "it reads the image, whose pixels ONNX Runtime's graph folds into its weight"
    elif not isinstance(reads, str) and np.prod(weight.shape[1:] if operator(node) == "Conv" else 1) > _MOST_INPUTS:
        reads = f"more than {_MOST_INPUTS} inputs"
    return Layer(
        name=label(node),
        position=position,
        source=node.input[0],
        weight=weight.astype(np.float32),
        axis=_output_axis(node),
        reads=reads,
        measured="" if operator(node) == "MatMul" else _measured(wiring, node, position),
    )


def _output_axis(node: onnx.NodeProto) -> int:
    if operator(node) == "Conv":
        return 0
    return 0 if operator(node) == "Gemm" and attribute(node, "transB", 0) else 1


def _measured(wiring: Wiring, node: onnx.NodeProto, position: int) -> str:
    """The addition that alone reads a convolution, where no layer behind this one feeds it; else the layer itself."""
    readers = wiring.readers(node.output[0])
    if operator(node) != "Conv" or len(readers) != 1 or wiring.is_output(node.output[0]):
        return label(node)
    addition = readers[0]
    if operator(addition) != "Add" or any(wiring.constant(name) is not None for name in addition.input):
        return label(node)
    makers = [wiring.producer(name) for name in addition.input]
    last = max((wiring.nodes.index(maker) for maker in makers if maker is not None), default=position)
    return label(addition) if last == position else label(node)
