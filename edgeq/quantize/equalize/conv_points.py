"""The places between convolutions where channels can be rescaled without changing what a graph computes.

A convolution's output channels take the division, and the input channels of those behind it the product, where between
them is nothing but f with f(s x) = s f(x) for s > 0 (Nagel et al. 2019, arXiv:1906.04721, section 4.1). ReLU6 is none
of them: it would have to be cut off at another height in each channel.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from edgeq.model.graph.wiring import Wiring, attribute, label, operator
from edgeq.quantize.equalize.points import Consumer, EqualizationPoint, Place, PointLeft

__all__ = ["find_conv_points"]

_HOMOGENEOUS = frozenset(
    {"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity", "LeakyRelu", "MaxPool", "PRelu", "Relu"}
)
_BEFORE_INPUTS, _AFTER_OUTPUTS = 1, 0
"""The axis of a convolution's weight [out, in / group, taps...] that has its input or its output channels."""


def find_conv_points(
    model: onnx.ModelProto, layers: frozenset[str]
) -> tuple[tuple[EqualizationPoint, ...], tuple[PointLeft, ...]]:
    """The points in front of some convolutions, in the graph's order, and the convolutions that could not be one.

    Args:
        model: FP32, every node named, its weights in memory.
        layers: names of the convolutions that a point is worth having for.
    """
    wiring = Wiring(model)
    points: list[EqualizationPoint] = []
    left: list[PointLeft] = []
    for node in wiring.nodes:
        if operator(node) != "Conv" or wiring.constant(node.input[1]) is None:
            continue
        found = _point(wiring, node)
        if isinstance(found, PointLeft):
            left.append(found)
        elif any(consumer.node in layers for consumer in found.consumers):
            points.append(found)
    return tuple(points), tuple(left)


def _point(wiring: Wiring, node: onnx.NodeProto) -> EqualizationPoint | PointLeft:
    weight = wiring.constant(node.input[1])
    assert weight is not None
    channels, consumers = len(weight), []
    for tensor, reader in _readers(wiring, node.output[0]):
        consumer = None if reader is None else _consumer(wiring, reader, tensor, channels)
        if consumer is None:
            who = "it is an output of the graph" if reader is None else f"{operator(reader)} {label(reader)} reads it"
            return PointLeft(label(node), "convolution", who)
        consumers.append(consumer)
    if not consumers:
        return PointLeft(label(node), "convolution", "no convolution reads it")
    bias = Place(label(node), 2, 0) if len(node.input) > 2 and node.input[2] else None
    if bias is not None and wiring.constant(node.input[2]) is None:
        return PointLeft(label(node), "convolution", "its bias is computed")
    return EqualizationPoint(
        name=label(node),
        kind="convolution",
        channels=channels,
        divided=tuple(place for place in (Place(label(node), 1, _AFTER_OUTPUTS), bias) if place),
        shifted=None,
        consumers=tuple(consumers),
        scalable=np.ones(channels, np.bool_),
    )


def _readers(wiring: Wiring, tensor: str) -> Iterator[tuple[str, onnx.NodeProto | None]]:
    """Who reads a tensor's channels, behind what leaves them apart, and by which name; None is the graph's caller."""
    waiting = [tensor]
    while waiting:
        name = waiting.pop()
        if wiring.is_output(name):
            yield name, None
        for reader in wiring.readers(name):
            if operator(reader) in _HOMOGENEOUS and reader.input[0] == name and not any(reader.output[1:]):
                waiting.append(reader.output[0])
            else:
                yield name, reader


def _consumer(wiring: Wiring, node: onnx.NodeProto, tensor: str, channels: int) -> Consumer | None:
    """A convolution that reads these channels; None for anything else, and for one of several groups of several."""
    weight = wiring.constant(node.input[1]) if operator(node) == "Conv" else None
    if weight is None or list(node.input).count(tensor) != 1 or node.input[0] != tensor:
        return None
    group = attribute(node, "group", 1)
    if group == channels and weight.shape[:2] == (channels, 1):
        axis = _AFTER_OUTPUTS  # depthwise: output channel i reads input channel i alone
    elif group == 1 and weight.shape[1] == channels:
        axis = _BEFORE_INPUTS
    else:
        return None
    return Consumer(label(node), tensor, np.arange(channels), Place(label(node), 1, axis), None)
