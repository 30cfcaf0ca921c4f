"""Cut a graph where everything goes through one tensor, so that a part of it can be run alone.

A cut is the graph's input, its output, or a tensor between two nodes at which nothing else that was computed is still
to be read: behind a residual block of a ResNet or half a block of a transformer, but not inside. What is between two
cuts is a model of its own, and the pieces chained compute what the graph computes.

What costs nothing to compute again is not in the way: a mask that depends on the input's shape alone, the place of a
caption's end among its token ids. A piece that needs such a thing has the graph's input as a second one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import onnx
from onnx import TensorProto
from onnx.utils import Extractor

from edgeq.model.graph.tensors import constant_names

__all__ = ["Cut", "Cutter"]

_SHAPES: Final = ("Shape", "Size")
_MOVES: Final = ("Add", "Cast", "Gather", "Identity", "Reshape", "Slice", "Unsqueeze")
"""Between token ids and embeddings; whose shape is asked for, they are cheap enough to be made again."""

_WHOLE: Final = (TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL)


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
        self._input = model.graph.input[0].name
        self.cuts = (
            Cut(self._input, 0),
            *(cut for cut in _inner(model.graph, self._light()) if self._is_float(cut.tensor)),
            Cut(model.graph.output[0].name, len(model.graph.node)),
        )

    def extract(self, source: str, target: str) -> onnx.ModelProto:
        """The model float32 `source` -> float32 `target`, with the constants that it needs.

        Its second input is the graph's own, where it needs that beside another source.

        Args:
            source: a cut.
            target: a tensor that is computed from it.
        """
        piece = self._extractor.extract_model(list(dict.fromkeys((source, self._input))), [target])
        if source != self._input and not any(self._input in node.input for node in piece.graph.node):
            del piece.graph.input[1]
        return piece

    def _is_float(self, tensor: str) -> bool:
        return self._type(tensor) == TensorProto.FLOAT

    def _type(self, tensor: str) -> int:
        """Of its elements; UNDEFINED where that could not be inferred."""
        info = self._extractor.value_infos.get(tensor)
        return TensorProto.UNDEFINED if info is None else int(info.type.tensor_type.elem_type)

    def _light(self) -> frozenset[str]:
        """What is computed from shapes of the input or of embeddings, or is integers made of the input's."""
        graph = self.model.graph
        constants, given = constant_names(graph), {value.name for value in graph.input}
        valued, light, moved = set(given), {name for name in given if self._is_whole(name)}, set(given)
        for node in graph.node:
            read = {name for name in node.input if name} - constants
            made = {name for name in node.output if name}
            shape = node.op_type in _SHAPES
            if read & valued and not shape:
                valued |= made
            if read <= light | (moved if shape else set()):
                light |= {name for name in made if name not in valued or self._is_whole(name)}
            if node.op_type in _MOVES and read <= light | moved:
                moved |= made
        return frozenset(light)

    def _is_whole(self, tensor: str) -> bool:
        return self._type(tensor) in _WHOLE


def _inner(graph: onnx.GraphProto, light: frozenset[str]) -> Iterator[Cut]:
    """The cuts between the input and the output, of whatever type; what is `light` is not in the way."""
    constants = constant_names(graph) | light
    unread = Counter(name for node in graph.node for name in set(node.input))
    outputs = {output.name for output in graph.output}
    alive = {value.name for value in graph.input if unread[value.name] and value.name not in light}
    for position, node in enumerate(graph.node, start=1):
        for name in set(node.input):
            unread[name] -= 1
        alive |= {name for name in node.output if name and name not in constants}
        alive = {name for name in alive if unread[name] or name in outputs}
        if len(alive) == 1 and not alive & outputs:
            (name,) = alive
            if name in node.output:
                yield Cut(name, position)
