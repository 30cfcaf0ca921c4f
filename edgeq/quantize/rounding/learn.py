"""AdaRound over a whole graph: moments of what each layer reads in FP32, then its rounding, stretch by stretch.

Inputs are those of the FP32 network, so that every backend's graph gets the same integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.calibrate.samples import Array
from edgeq.quantize.int8.grid import round_weight, weight_amax, weight_scale
from edgeq.quantize.rounding.adaround import adaround
from edgeq.quantize.rounding.layers import Layer, stretches
from edgeq.quantize.rounding.moments import LayerInput, Moments
from edgeq.quantize.rounding.walk import Walk
from edgeq.quantize.search.pieces import Cutter

__all__ = ["learn_rounding"]

_ROWS: Final = 8
"""Times a row's length, so many rows are counted: with fewer, moments say more of chance than of the images."""
_FEWEST_ROWS: Final = 8192
_HELD_BYTES: Final = 256 * 1024 * 1024
"""Moments of so many layers are held at once; a stretch with more is run again."""


def learn_rounding(
    model: onnx.ModelProto,
    layers: Sequence[Layer],
    batches: Sequence[Array],
    *,
    biases: bool,
    threads: int | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> dict[str, NDArray[np.int8]]:
    """By layer, what is added to the nearest integers of its weight: int8 [...], its shape, -1, 0 or 1.

    Args:
        model: FP32, every node named.
        layers: of that graph, in its order; those whose rounding cannot be learned are passed over.
        batches: samples, [n, ...] each.
        biases: the mean of a layer's error will be taken by its bias, where it has one.
        threads: of one operator.
        advance: called with the number of layers done.
    """
    learned = [layer for layer in layers if isinstance(layer.reads, LayerInput)]
    walk, count = Walk(Cutter(model), batches, threads), sum(map(len, batches))
    found: dict[str, NDArray[np.int8]] = {}
    for stretch in stretches(learned, walk.network.cuts):
        piece = walk.piece(stretch.target)
        for some in _portions(stretch.layers):
            moments = _count(walk, piece, some, count)
            for layer in some:
                found[layer.name] = _rounded(layer, moments.pop(layer.name), biases)
                advance(1)
        if len(found) < len(learned):
            walk.move(piece, stretch.target)
    return found


def _portions(layers: Sequence[Layer]) -> Iterator[tuple[Layer, ...]]:
    """Layers whose moments fit side by side."""
    some: list[Layer] = []
    held = 0
    for layer in layers:
        size = _moments(layer).nbytes
        if some and held + size > _HELD_BYTES:
            yield tuple(some)
            some, held = [], 0
        some.append(layer)
        held += size
    yield tuple(some)


def _moments(layer: Layer) -> Moments:
    groups, _, inputs = layer.by_group(layer.weight.astype(np.float64)).shape
    return Moments(groups, inputs)


def _count(walk: Walk, piece: onnx.ModelProto, layers: Sequence[Layer], samples: int) -> dict[str, Moments]:
    moments = {layer.name: _moments(layer) for layer in layers}
    for values in walk.run(piece, [layer.source for layer in layers]):
        for layer in layers:
            given, into = values[layer.source], moments[layer.name]
            assert isinstance(layer.reads, LayerInput)
            share = len(given) / samples if layer.reads.kernel else 1.0 / max(samples / len(given), 1.0)
            into.add(layer.reads.rows(given, max(1, round(share * max(_FEWEST_ROWS, _ROWS * into.inputs)))))
    return moments


def _rounded(layer: Layer, moments: Moments, biases: bool) -> NDArray[np.int8]:
    scale = weight_scale(weight_amax(layer.weight, layer.axis))
    nearest = round_weight(layer.weight, layer.axis, scale)
    weight = layer.by_group(layer.weight.astype(np.float64))
    steps = scale.astype(np.float64).reshape(weight.shape[:2])
    chosen = adaround(weight, steps, moments.about(mean=biases and bool(layer.measured)))
    return layer.as_stored(chosen) - nearest
