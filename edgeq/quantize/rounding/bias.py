"""Bias correction (Nagel et al. 2019, arXiv:1906.04721, section 4.2), by measuring.

What a layer answers on average in the quantized network is brought to what it answers in FP32, channel by channel and
layer by layer: a later one sees what the earlier ones answer once they are corrected. Where a layer's answer is added
to something, the sum is brought there: so the shift of a residual is taken back as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeq.calibrate.samples import Array
from edgeq.model.graph.wiring import label
from edgeq.quantize.rounding.layers import Layer, Stretch, stretches
from edgeq.quantize.rounding.walk import Walk
from edgeq.quantize.search.pieces import Cutter

__all__ = ["learn_biases"]

Vector = NDArray[np.float64]


def learn_biases(
    model: onnx.ModelProto,
    int8: onnx.ModelProto,
    layers: Sequence[Layer],
    batches: Sequence[Array],
    *,
    threads: int | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> dict[str, NDArray[np.float32]]:
    """By layer, what is added to its bias: float32 [channels].

    Args:
        model: FP32, every node named.
        int8: what `edgeq.quantize.int8.qdq.lower` made of it for a backend.
        layers: of that graph, in its order; those without a bias of their own are passed over.
        batches: samples, [n, ...] each.
        threads: of one operator.
        advance: called with the number of layers done.
    """
    measured = [layer for layer in layers if layer.measured]
    exact, stored = (Walk(Cutter(graph), batches, threads) for graph in (model, int8))
    shared = {cut.tensor for cut in stored.network.cuts}
    cuts = [cut for cut in exact.network.cuts if cut.tensor in shared]
    found: dict[str, NDArray[np.float32]] = {}
    for stretch in stretches(measured, cuts):
        piece = exact.piece(stretch.target)
        means = _means(exact, piece, stretch.layers)
        corrected = stored.piece(stretch.target)
        _correct(stored, corrected, stretch, means, found)
        advance(len(stretch.layers))
        if len(found) < len(measured):
            exact.move(piece, stretch.target)
            stored.move(corrected, stretch.target)
    return found


def _correct(
    stored: Walk,
    piece: onnx.ModelProto,
    stretch: Stretch,
    means: Mapping[str, Vector],
    found: dict[str, NDArray[np.float32]],
) -> None:
    """Measure and correct the layers of a stretch one after the other, in `piece` as well."""
    for layer in stretch.layers:
        shift = means[layer.name] - _means(stored, piece, (layer,))[layer.name]
        found[layer.name] = shift.astype(np.float32)
        _add(piece, layer.name, found[layer.name])


def _means(walk: Walk, piece: onnx.ModelProto, layers: Sequence[Layer]) -> dict[str, Vector]:
    """The mean of each channel where a layer is measured, float64 [channels] by layer."""
    outputs = {label(node): node.output[0] for node in piece.graph.node}
    places = {layer.name: outputs[layer.measured] for layer in layers}
    sums: dict[str, Vector] = {}
    counts: dict[str, int] = dict.fromkeys(places, 0)
    for values in walk.run(piece, tuple(places.values())):
        for name, place in places.items():
            rows = np.moveaxis(values[place], 1, -1) if values[place].ndim > 2 else values[place]
            rows = rows.reshape(-1, rows.shape[-1])
            sums[name] = sums.get(name, 0.0) + rows.sum(axis=0, dtype=np.float64)
            counts[name] += len(rows)
    return {name: total / counts[name] for name, total in sums.items()}


def _add(piece: onnx.ModelProto, layer: str, shift: NDArray[np.float32]) -> None:
    """Add to a layer's bias, which is a constant in floating point from then on."""
    node = next(node for node in piece.graph.node if label(node) == layer)
    bias = _bias(piece.graph, node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros_like(shift)
    name = f"{layer}.corrected_bias"
    piece.graph.initializer.append(numpy_helper.from_array((bias + shift).astype(np.float32), name))
    del node.input[2:]
    node.input.append(name)


def _bias(graph: onnx.GraphProto, name: str) -> NDArray[np.float32]:
    """A bias, behind its DequantizeLinear where it is stored as integers."""
    constants = {value.name: value for value in graph.initializer}
    if name in constants:
        return numpy_helper.to_array(constants[name])
    node = next(node for node in graph.node if name in node.output)
    integers, scale = (numpy_helper.to_array(constants[each]) for each in node.input[:2])
    return (integers * scale.astype(np.float64)).astype(np.float32)
