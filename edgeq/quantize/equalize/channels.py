"""Where the channels of a tensor go: through layers that only move or mix them apart, into linear layers.

Each channel gets a number, and what the layers behind the tensor do to its values is done to an array of these numbers.
So no reshape has to be understood: a column of a linear layer's input that holds one number only is that channel. A
channel may be scaled if every value made of it ends so, in linear layers with constant weights, which take the scale
back; the layers between must commute with it: moves of values, a product that mixes positions and not channels (the
attention's share times the value), and functions f with f(s x) = s f(x) for s > 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from edgeq.export.simplify import simplify
from edgeq.model.graph.wiring import Wiring, attribute, label, operator, subgraphs

__all__ = ["ChannelReader", "Fixed", "Reach", "follow"]

Labels = NDArray[np.int64]

_ZERO: Final = 0
"""Stands for a value that is always zero; channel c goes by the number c + 1."""
_FOREIGN: Final = -1
"""Stands for a value that does not come from the tensor followed, and is not zero."""

_MOVES: Final = frozenset(
    {
        *("Concat", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice", "Split", "Squeeze"),
        *("Transpose", "Unsqueeze"),
    }
)
_HOMOGENEOUS: Final = frozenset({"LeakyRelu", "Relu"})
_BATCH: Final = 2


@dataclass(frozen=True)
class ChannelReader:
    """A linear layer (MatMul or Gemm with a constant weight) that reads channels.

    Attributes:
        node: its name.
        tensor: what it reads, [..., inputs].
        channels: int64 [inputs], the channel that each of its input channels is; -1 for one that is none of them.
    """

    node: str
    tensor: str
    channels: Labels


@dataclass(frozen=True)
class Reach:
    """What becomes of a tensor's channels.

    Attributes:
        readers: the linear layers behind it, in the graph's order.
        scalable: bool [channels], those whose scale all readers can take back.
        shiftable: whether a number added to a channel reaches every reader unchanged as well.
        reason: why a channel cannot be scaled, of the first that cannot; empty where all can.
    """

    readers: tuple[ChannelReader, ...]
    scalable: NDArray[np.bool_]
    shiftable: bool
    reason: str


class Fixed:
    """A graph at a batch of two, so that every shape is a constant.

    Args:
        model: FP32, every node named; it is not changed.
        sizes: of the last axes of its input: height and width of images, the length of captions.

    Attributes:
        wiring: of the copy; nodes that stay have the names that they have in `model`.
        nested: whether there are graphs inside nodes, which are not followed.
    """

    def __init__(self, model: onnx.ModelProto, sizes: tuple[int, ...]) -> None:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        axes = copy.graph.input[0].type.tensor_type.shape.dim
        axes[0].dim_value = _BATCH
        for axis, size in zip(reversed(axes), reversed(sizes), strict=False):
            axis.dim_value = size
        settled = onnx.shape_inference.infer_shapes(simplify(copy, join_norms=False), data_prop=True)
        self.wiring = Wiring(settled)
        self.nested = any(True for node in settled.graph.node for _ in subgraphs(node))
        self._opset = max(entry.version for entry in settled.opset_import if entry.domain in ("", "ai.onnx"))
        values = [*settled.graph.input, *settled.graph.value_info, *settled.graph.output]
        self._shapes = {value.name: _shape(value) for value in values}

    def shape(self, tensor: str) -> tuple[int, ...] | None:
        """The shape of a computed tensor; None where inference could not tell."""
        return self._shapes.get(tensor)

    def move(self, node: onnx.NodeProto, inputs: Sequence[NDArray[Any] | None]) -> list[Labels]:
        """What a layer that moves values makes of some arrays; None stands for an input that is left out."""
        names = [name if value is not None else "" for name, value in zip(node.input, inputs, strict=True)]
        alone = onnx.NodeProto()
        alone.CopyFrom(node)
        del alone.input[:]
        alone.input.extend(names)
        given = [onnx.helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(names) if name]
        made = [onnx.helper.make_empty_tensor_value_info(name) for name in node.output]
        graph = onnx.helper.make_graph([alone], "move", given, made)
        feeds = {name: value for name, value in zip(names, inputs, strict=True) if value is not None}
        found: list[Labels] = ReferenceEvaluator(graph, opsets={"": self._opset}).run(None, feeds)  # type: ignore[assignment]
        return found


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    tensor = value.type.tensor_type
    known = tensor.HasField("shape") and all(axis.HasField("dim_value") for axis in tensor.shape.dim)
    return tuple(axis.dim_value for axis in tensor.shape.dim) if known else None


def follow(graph: Fixed, tensor: str, channels: int) -> Reach:
    """Where the channels of a tensor go.

    Args:
        graph: that has the tensor.
        tensor: its name.
        channels: size of its last axis; a tensor of another shape goes nowhere, with the reason.

    Raises:
        ExportError: a weight was not loaded with the graph.
    """
    shape = graph.shape(tensor)
    if shape is None or shape[-1] != channels:
        return Reach((), np.zeros(channels, np.bool_), False, f"the shape of {tensor} is not known")
    walk = _Walk(graph, channels, {tensor: np.broadcast_to(np.arange(1, channels + 1), shape)})
    for node in graph.wiring.nodes:
        walk.visit(node)
    for name, labels in walk.labels.items():
        if graph.wiring.is_output(name):
            walk.pin(labels, "it is an output of the graph")
    return Reach(tuple(walk.readers), ~walk.pinned[1:], walk.shiftable, walk.reason)


@dataclass
class _Walk:
    """The labelled tensors found so far, and what they were read by."""

    graph: Fixed
    channels: int
    labels: dict[str, Labels]
    readers: list[ChannelReader] = field(default_factory=list)
    shiftable: bool = True
    reason: str = ""
    pinned: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        """Nothing is pinned yet; place 0 stands for no channel."""
        self.pinned = np.zeros(self.channels + 1, np.bool_)

    def visit(self, node: onnx.NodeProto) -> None:
        """Pass a node's labels on, or pin what it reads."""
        read = [place for place, name in enumerate(node.input) if name in self.labels]
        if not read or operator(node) == "Shape":
            return
        if operator(node) in ("Gemm", "MatMul") and read == [0] and self._reads_channels(node):
            self._read(node)
        elif operator(node) in _MOVES and (read == [0] or operator(node) == "Concat") and self._moves(node):
            pass
        elif operator(node) in _HOMOGENEOUS:
            self.shiftable = False
            self.labels[node.output[0]] = self.labels[node.input[0]]
        elif operator(node) == "MatMul" and read == [1] and self._mixes(node):
            pass
        else:
            for place in read:
                self.pin(self.labels[node.input[place]], f"{operator(node)} {label(node)} reads it")

    def pin(self, labels: Labels, reason: str) -> None:
        """These channels keep their scale."""
        found = np.unique(labels[labels > 0])
        if found.size:
            self.pinned[found] = True
            self.reason = self.reason or reason

    def _reads_channels(self, node: onnx.NodeProto) -> bool:
        weight = self.graph.wiring.constant(node.input[1])
        return weight is not None and weight.ndim == 2 and not attribute(node, "transA", 0)

    def _read(self, node: onnx.NodeProto) -> None:
        labels = self.labels[node.input[0]]
        columns = self._single(labels.reshape(-1, labels.shape[-1]), f"{operator(node)} {label(node)} mixes it")
        self.readers.append(ChannelReader(label(node), node.input[0], np.maximum(columns, 0) - 1))

    def _moves(self, node: onnx.NodeProto) -> bool:
        """Move the labels; False where an input that says how is not constant."""
        values = [self._moved_value(node, place) for place in range(len(node.input))]
        if any(value is None and name for value, name in zip(values, node.input, strict=True)):
            return False
        made = self.graph.move(node, values)
        self.labels |= {name: labels for name, labels in zip(node.output, made, strict=True) if name}
        return True

    def _moved_value(self, node: onnx.NodeProto, place: int) -> NDArray[Any] | None:
        """An input of a layer that moves values: labels, or the constant that says where they go."""
        name = node.input[place]
        if name in self.labels:
            return self.labels[name]
        constant = self.graph.wiring.constant(name) if name else None
        if operator(node) == "Concat":
            shape = self.graph.shape(name)
            if constant is not None:
                return np.where(constant == 0, _ZERO, _FOREIGN)
            return None if shape is None else np.full(shape, _FOREIGN)
        if operator(node) == "Pad" and place == 2 and constant is not None:
            return np.where(constant == 0, _ZERO, _FOREIGN).astype(np.int64)
        return constant

    def _mixes(self, node: onnx.NodeProto) -> bool:
        """A product with the labelled tensor on the right: each column stays one channel if it was one."""
        labels, shape = self.labels[node.input[1]], self.graph.shape(node.output[0])
        if shape is None or labels.ndim < 2 or len(shape) < 2:
            return False
        self.shiftable = False
        columns = self._single(np.moveaxis(labels, -2, 0), f"MatMul {label(node)} mixes it")
        self.labels[node.output[0]] = np.broadcast_to(columns[..., None, :], shape)
        return True

    def _single(self, labels: Labels, reason: str) -> Labels:
        """The one channel of each column along the first axis; where a column holds several, they are pinned."""
        high = labels.max(axis=0)
        low = np.where(labels == _ZERO, np.iinfo(np.int64).max, labels).min(axis=0)
        self.pin(np.where((low != high) & (high > 0), labels, _ZERO), reason)
        if (labels == _ZERO).any():
            self.shiftable = False
        single: Labels = np.where(high > 0, high, low.clip(max=_ZERO))
        return single
