"""The places of a graph where channels can be rescaled without changing what it computes.

A point is a layer whose constants can take the division (a normalization's weight and bias, a linear layer's output
channels) and the linear layers behind it whose input channels take the product. Found by what the graph does:
LayerNormalization, a product and a sum with vectors (the end of one that was written out), and linear layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.model.graph.wiring import Wiring, attribute, label, operator
from edgeq.quantize.equalize.channels import ChannelReader, Fixed, follow

__all__ = ["Consumer", "EqualizationPoint", "Kind", "Place", "PointLeft", "find_points"]

Kind = Literal["normalization", "linear", "convolution"]


@dataclass(frozen=True)
class Place:
    """A constant that holds channels.

    Attributes:
        node: name of the node that reads it.
        index: of that node's input.
        axis: of the channels.
    """

    node: str
    index: int
    axis: int


@dataclass(frozen=True)
class Consumer:
    """A linear layer or a convolution that reads a point's channels.

    Attributes:
        node: its name.
        tensor: what it reads, [..., inputs]; of a convolution [n, inputs, ...].
        channels: int64 [inputs]: which of the point's channels each is; -1 for none.
        weight: its input channels.
        bias: its output channels; None where it has no bias of its own.
    """

    node: str
    tensor: str
    channels: NDArray[np.int64]
    weight: Place
    bias: Place | None


@dataclass(frozen=True)
class EqualizationPoint:
    """A place where channels can be rescaled.

    Attributes:
        name: of the layer that makes them.
        kind: what that layer is.
        channels: how many.
        divided: the constants that a channel's scale divides, the weight first.
        shifted: of these, what a number added to each channel goes into; None where it has no place, or would not
            reach each consumer unchanged.
        consumers: layers that take the scale back.
        scalable: bool [channels]; the others must keep scale 1.
    """

    name: str
    kind: Kind
    channels: int
    divided: tuple[Place, ...]
    shifted: Place | None
    consumers: tuple[Consumer, ...]
    scalable: NDArray[np.bool_]


@dataclass(frozen=True)
class PointLeft:
    """A layer whose channels cannot be rescaled exactly.

    Attributes:
        name: of the layer.
        kind: of the point that it would have been.
        reason: why it is none, for people.
    """

    name: str
    kind: Kind
    reason: str


def find_points(
    model: onnx.ModelProto, sizes: tuple[int, ...], layers: frozenset[str]
) -> tuple[tuple[EqualizationPoint, ...], tuple[PointLeft, ...]]:
    """The points in front of some linear layers, in the graph's order, and the layers that could not be one.

    Args:
        model: FP32, every node named; it is not changed.
        sizes: of the last axes of its input: height and width of images, the length of captions.
        layers: names of the linear layers that a point is worth having for.

    Raises:
        ExportError: the graph is not well formed, or its weights were not loaded.
    """
    graph, own = Fixed(model, sizes), Wiring(model)
    nodes = {label(node): node for node in own.nodes}
    points: list[EqualizationPoint] = []
    left: list[PointLeft] = []
    for source in _sources(graph.wiring):
        found = _point(graph, source)
        if isinstance(found, EqualizationPoint) and (computed := next(_computed(own, nodes, found), None)):
            found = PointLeft(found.name, found.kind, f"{computed} is constant only at one batch size")
        if isinstance(found, PointLeft):
            left.append(found)
        elif any(consumer.node in layers for consumer in found.consumers):
            points.append(found)
    return tuple(points), tuple(left)


def _computed(own: Wiring, nodes: Mapping[str, onnx.NodeProto], point: EqualizationPoint) -> Iterator[str]:
    """The constants of a point that the graph as it came computes, though at a fixed batch they are constant."""
    behind = ((consumer.weight, consumer.bias) for consumer in point.consumers)
    for place in (*point.divided, *(place for places in behind for place in places if place is not None)):
        node = nodes.get(place.node)
        if node is None or (_has(node, place.index) and own.constant(node.input[place.index]) is None):
            yield f"input {place.index} of {place.node}"


@dataclass(frozen=True)
class _Source:
    """A layer whose constants can take a division; `tensor` is what it makes."""

    name: str
    kind: Kind
    tensor: str
    channels: int
    weight: Place
    bias: Place | None


def _sources(wiring: Wiring) -> Iterator[_Source]:
    for node in wiring.nodes:
        found = _normalization(wiring, node) or _product(wiring, node) or _linear(wiring, node)
        if found is not None:
            yield found


def _normalization(wiring: Wiring, node: onnx.NodeProto) -> _Source | None:
    """LayerNormalization over the last axis alone, which is what a weight with one axis means."""
    if operator(node) != "LayerNormalization" or any(node.output[1:]):
        return None
    size = _vector(wiring, node, 1)
    if size is None:
        return None
    # A bias that it does not have is an input that can be added.
    bias = Place(label(node), 2, -1) if not _has(node, 2) or _vector(wiring, node, 2) == size else None
    if _has(node, 2) and bias is None:
        return None
    return _Source(label(node), "normalization", node.output[0], size, Place(label(node), 1, -1), bias)


def _product(wiring: Wiring, node: onnx.NodeProto) -> _Source | None:
    """A product with a vector, and the sum with one that follows: how a normalization ends that was written out."""
    if operator(node) != "Mul":
        return None
    place = next((index for index in (0, 1) if _vector(wiring, node, index) is not None), None)
    if place is None:
        return None
    size = _vector(wiring, node, place) or 0
    return _with_sum(wiring, node, _Source(label(node), "normalization", "", size, Place(label(node), place, -1), None))


def _linear(wiring: Wiring, node: onnx.NodeProto) -> _Source | None:
    if operator(node) not in ("Gemm", "MatMul"):
        return None
    weight = wiring.constant(node.input[1])
    if weight is None or weight.ndim != 2 or wiring.constant(node.input[0]) is not None:
        return None
    axis = 0 if attribute(node, "transB", 0) else 1
    source = _Source(label(node), "linear", "", weight.shape[axis], Place(label(node), 1, axis), None)
    if operator(node) == "MatMul" or not _has(node, 2):
        return _with_sum(wiring, node, source)
    if _vector(wiring, node, 2) != source.channels:
        return None
    return replace(source, tensor=node.output[0], bias=Place(label(node), 2, -1))


def _with_sum(wiring: Wiring, node: onnx.NodeProto, source: _Source) -> _Source:
    """`source` with the sum with a vector of its size behind it, where there is one and nothing else reads it."""
    added = _sum_behind(wiring, node, source.channels)
    if added is None:
        return replace(source, tensor=node.output[0])
    adder, place = added
    return replace(source, tensor=adder.output[0], bias=Place(label(adder), place, -1))


def _sum_behind(wiring: Wiring, node: onnx.NodeProto, size: int) -> tuple[onnx.NodeProto, int] | None:
    readers = wiring.readers(node.output[0])
    if len(readers) != 1 or operator(readers[0]) != "Add" or wiring.is_output(node.output[0]):
        return None
    place = next((index for index in (0, 1) if _vector(wiring, readers[0], index) == size), None)
    return None if place is None else (readers[0], place)


def _point(graph: Fixed, source: _Source) -> EqualizationPoint | PointLeft:
    if graph.nested:
        return PointLeft(source.name, source.kind, "there are graphs inside nodes")
    reach = follow(graph, source.tensor, source.channels)
    consumers = tuple(_consumer(graph.wiring, reader) for reader in reach.readers)
    if not consumers or not reach.scalable.any():
        return PointLeft(source.name, source.kind, reach.reason or "no linear layer reads it")
    whole = reach.shiftable and all(consumer.bias for consumer in consumers)
    return EqualizationPoint(
        name=source.name,
        kind=source.kind,
        channels=source.channels,
        divided=tuple(place for place in (source.weight, source.bias) if place),
        shifted=source.bias if whole else None,
        consumers=consumers,
        scalable=reach.scalable,
    )


def _consumer(wiring: Wiring, reader: ChannelReader) -> Consumer:
    node = next(node for node in wiring.nodes if label(node) == reader.node)
    axis = 1 if attribute(node, "transB", 0) else 0
    return Consumer(reader.node, reader.tensor, reader.channels, Place(reader.node, 1, axis), _bias(wiring, node, axis))


def _bias(wiring: Wiring, node: onnx.NodeProto, axis: int) -> Place | None:
    """Where a linear layer's bias is; a Gemm that multiplies by factors of its own has none that can be used."""
    weight = wiring.constant(node.input[1])
    assert weight is not None
    outputs = weight.shape[1 - axis]
    if operator(node) == "Gemm" and _has(node, 2):
        plain = attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0
        return Place(label(node), 2, -1) if plain and _vector(wiring, node, 2) == outputs else None
    added = _sum_behind(wiring, node, outputs) if operator(node) == "MatMul" else None
    return None if added is None else Place(label(added[0]), added[1], -1)


def _has(node: onnx.NodeProto, index: int) -> bool:
    return len(node.input) > index and bool(node.input[index])


def _vector(wiring: Wiring, node: onnx.NodeProto, index: int) -> int | None:
    """The length of a constant input whose other axes are 1; None where it is no such vector."""
    value = wiring.constant(node.input[index]) if _has(node, index) else None
    return value.shape[-1] if value is not None and value.ndim and value.size == value.shape[-1] > 1 else None
