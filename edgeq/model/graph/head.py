"""Find a network's heads by structure: the last layers with weights on the way to each output.

A head's error goes straight into what the network gives, and nothing behind it averages that out. Everything between a
head and the output (a sigmoid, the decoding of boxes) computes on its numbers, and stays in floating point with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from edgeq.model.graph.tensors import constant_names, constant_tensors, node_names, reads

if TYPE_CHECKING:
    import onnx

__all__ = ["head_nodes"]

_LAYERS: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_SMALL: Final = 0.02
"""Part of all weights. An encoder's residual branches have about half of them."""
_SIZES: Final = frozenset({"Shape", "Size"})
_MOVES: Final = frozenset({"Concat", "Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose"}) | {
    "Unsqueeze"
}


def head_nodes(model: onnx.ModelProto, outputs: Sequence[str] | None = None) -> tuple[str, ...]:
    """Names (as `node_names` gives them) of the heads' nodes, in the order of the graph.

    From each output the graph is followed back, over every way and through any operator without weights of its own, to
    Gemm, Conv, ConvTranspose, or a MatMul with a constant (and the Add of its bias). Where these lead to one another,
    or the network's input is added to what they make, the output is a sum of residuals, such as an encoder's features:
    the error of the last layer is one of many there, and there is no head, unless all these layers together are small,
    such as those that correct a detector's boxes step by step. A layer that reads a softmax is the mean over bins that
    boxes are decoded by, and the layers before the softmax are the head as well.

    Args:
        model: nodes in topological order.
        outputs: of the graph, whose heads are wanted; None for all.
    """
    walk = _Walk(model)
    names = node_names(model)
    given = [value.name for value in model.graph.output] if outputs is None else outputs
    found = {index for name in given for index in walk.head(name)}
    return tuple(names[index] for index in sorted(found))


class _Walk:
    """The graph, followed from its end; nodes go by their index."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._nodes = list(model.graph.node)
        self._producers = {name: index for index, node in enumerate(self._nodes) for name in node.output if name}
        self._inputs = {value.name for value in model.graph.input}
        self._fixed = constant_names(model.graph)
        self._sizes = {name: math.prod(tensor.dims) for name, tensor in constant_tensors(model.graph).items()}

    def head(self, output: str) -> set[int]:
        """The head of one output, with the Adds of its biases."""
        head, bare = self._layers([output])
        means = {index for index in head if self._reads_softmax(index)}
        head |= self._layers(name for index in means for name in self._variable(index))[0]
        if (bare or self._residual(head - means)) and not self._small(head):
            return set()
        return head | {bias for index in head for bias in self._biases(index)}

    def _residual(self, layers: set[int]) -> bool:
        """Whether some of the layers lead to others of them."""
        return not layers.isdisjoint(self._before(name for index in layers for name in self._variable(index)))

    def _small(self, layers: set[int]) -> bool:
        """Whether the layers have few of the network's weights."""
        weights = sum(self._sizes.get(name, 0) for index in layers for name in self._nodes[index].input)
        return bool(weights <= _SMALL * sum(self._sizes.values()))

    def _layers(self, tensors: Iterable[str]) -> tuple[set[int], bool]:
        """The layers with weights that are met first on every way back from some tensors, and whether a way has none.

        On such a way the network's input itself is added to what the layers make of it.
        """
        met = list(self._before(tensors, through_layers=False))
        layers = {index for index in met if self._is_layer(index)}
        bare = any(name in self._inputs for index in met if index not in layers for name in self._variable(index))
        return layers, bare

    def _before(self, tensors: Iterable[str], *, through_layers: bool = True) -> Iterator[int]:
        """Every node that some tensors are computed by, but for what only looks at their sizes."""
        waiting, seen = list(tensors), set[int]()
        while waiting:
            index = self._producers.get(waiting.pop())
            if index is None or index in seen or self._nodes[index].op_type in _SIZES:
                continue
            seen.add(index)
            yield index
            if through_layers or not self._is_layer(index):
                waiting += self._variable(index)

    def _variable(self, index: int) -> list[str]:
        """What a node reads that depends on the network's input."""
        return [name for name in reads(self._nodes[index]) if name not in self._fixed]

    def _is_layer(self, index: int) -> bool:
        """Whether a node is a product of one computed tensor with a constant one."""
        return self._nodes[index].op_type in _LAYERS and len(self._variable(index)) == 1

    def _reads_softmax(self, index: int) -> bool:
        """Whether a layer reads a softmax, through what moves numbers only."""
        producer = self._producers.get(self._variable(index)[0])
        while producer is not None and self._nodes[producer].op_type in _MOVES:
            variable = self._variable(producer)
            producer = self._producers.get(variable[0]) if variable else None
        return producer is not None and self._nodes[producer].op_type == "Softmax"

    def _biases(self, index: int) -> Iterator[int]:
        """The Add of a constant that is the only reader of a MatMul."""
        if self._nodes[index].op_type != "MatMul":
            return
        made = self._nodes[index].output[0]
        readers = [place for place, node in enumerate(self._nodes) if made in node.input]
        if len(readers) == 1 and self._nodes[readers[0]].op_type == "Add" and len(self._variable(readers[0])) == 1:
            yield readers[0]
