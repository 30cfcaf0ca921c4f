"""Cut a graph where everything goes through one tensor, so that a part of it can be run alone.

A cut is the graph's input, its output, or a tensor between two nodes at which nothing else that was computed is still
to be read: behind a residual block of a ResNet or half a block of a transformer, but not inside. What is between two
cuts is a model of its own, and the pieces chained compute what the graph computes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import onnx
from onnx import TensorProto
from onnx.utils import Extractor

from edgeq.model.graph.tensors import constant_names

__all__ = ["Cut", "Cutter"]


@dataclass(frozen=True)
class Cut:
    """A tensor through which everything goes.

    Attributes:
        tensor: its name.
        position: how many of the graph's nodes come before it.
    """

    tensor: str
    position: int


class Cutter:
    """A graph and its cuts.

    Args:
        model: nodes in topological order, one input and one output; it is not changed.

    Attributes:
        model: the graph with the types and shapes that could be inferred.
        cuts: from the input to the output, at least these two; the others are float32.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.shape_inference.infer_shapes(model)
        self._extractor = Extractor(self.model)
        self.cuts = (
            Cut(model.graph.input[0].name, 0),
            *(cut for cut in _inner(model.graph) if self._is_float(cut.tensor)),
            Cut(model.graph.output[0].name, len(model.graph.node)),
        )

    def extract(self, source: str, target: str) -> onnx.ModelProto:
        """The model float32 `source` -> float32 `target`, with the constants that it needs.

        Args:
            source: a cut.
            target: a tensor that is computed from it.
        """
        return self._extractor.extract_model([source], [target])

    def _is_float(self, tensor: str) -> bool:
        info = self._extractor.value_infos.get(tensor)
        return info is not None and info.type.tensor_type.elem_type == TensorProto.FLOAT


def _inner(graph: onnx.GraphProto) -> Iterator[Cut]:
    """The cuts between the input and the output, of whatever type."""
    constants = constant_names(graph)
    unread = Counter(name for node in graph.node for name in set(node.input))
    outputs = {output.name for output in graph.output}
    alive = {value.name for value in graph.input if unread[value.name]}
    for position, node in enumerate(graph.node, start=1):
        for name in set(node.input):
            unread[name] -= 1
        alive |= {name for name in node.output if name and name not in constants}
        alive = {name for name in alive if unread[name] or name in outputs}
        if len(alive) == 1 and not alive & outputs:
            (name,) = alive
            if name in node.output:
                yield Cut(name, position)
