"""What a rule may ask about a layer's surroundings in a graph: the named conditions, in a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Final

from edgeq.model.graph.components import OPERATORS
from edgeq.model.graph.normalizations import norm_pieces
from edgeq.model.graph.tensors import constant_tensors
from edgeq.plan.precision import Condition, Precision

if TYPE_CHECKING:
    import onnx

__all__ = [
    "CARRIERS",
    "CONDITIONS",
    "CONVOLUTIONS",
    "FUSED_ACTIVATIONS",
    "INT8_CONDITIONS",
    "POOLS",
    "PRODUCTS",
    "STORED_IN_INT8",
    "WEIGHTED",
    "Surroundings",
]

WEIGHTED: Final = frozenset({"Conv", "Gemm", "MatMul"})
"""Layers with an INT8 kernel for constant weights, in ONNX Runtime and in TensorRT."""

CONVOLUTIONS: Final = frozenset({"Conv", "ConvTranspose"})
"""Of which TensorRT adds a residual in the accumulator."""

STORED_IN_INT8: Final = WEIGHTED | CONVOLUTIONS
"""Layers whose constant weights a backend may store in INT8: TensorRT has INT8 kernels for ConvTranspose as well."""

PRODUCTS: Final = frozenset({"Gemm", "MatMul"})
"""Those of them whose kernel may write floating point: it stores integers only for an INT8 layer that reads them."""

FUSED_ACTIVATIONS: Final = frozenset({"Relu", "Clip"})
"""Activations that a kernel applies while it writes its result."""

CARRIERS: Final = frozenset(
    {"MaxPool", "Slice", "Pad", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Concat"}
)
"""Layers that move values and compute none: their output is on the grid of their input."""

POOLS: Final = frozenset({"GlobalAveragePool", "AveragePool"})

_UNDERSTOOD: Final = OPERATORS | {
    *("Abs", "And", "ArgMax", "ArgMin", "Ceil", "Cos", "Div", "Equal", "Exp", "Floor", "GatherElements", "GatherND"),
    *("Greater", "GreaterOrEqual", "IsNaN", "Trilu"),
    *("Less", "LessOrEqual", "Log", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "Reciprocal", "ReduceL2"),
    *("ReduceMin", "ReduceSum", "Resize", "Round", "Sign", "Sin", "Size", "Sqrt", "Sub", "Upsample", "Where"),
}
"""Operators that the rules speak of, by their kind or as plain arithmetic on each number."""

_OF_ANGLES: Final = frozenset({"Cos", "Sin"})

_TO_ANGLES: Final = CARRIERS | {"Cast", "Mul"}
"""What is between positions and their angles."""

_DOMAINS: Final = ("", "ai.onnx", "com.microsoft")
"""Of which an operator's name says what it computes."""


@dataclass
class Surroundings:
    """What the conditions look at.

    Attributes:
        model: the graph.
        constants: names of initializers and of what Constant nodes give.
        shapes: initializer -> its shape.
        zeros: names of the scalar initializers that are 0.
        producer: tensor -> the node that makes it.
        consumers: tensor -> the nodes that read it, one for each reading input.
        outputs: names of the graph's outputs.
        precision: node -> its precision, of those decided so far.
        heads: names of the heads' nodes.
    """

    model: onnx.ModelProto
    constants: frozenset[str]
    shapes: dict[str, tuple[int, ...]]
    zeros: frozenset[str]
    producer: dict[str, onnx.NodeProto]
    consumers: dict[str, list[onnx.NodeProto]]
    outputs: frozenset[str]
    precision: dict[str, Precision] = field(default_factory=dict)
    heads: frozenset[str] = frozenset()

    @classmethod
    def of(cls, model: onnx.ModelProto) -> Surroundings:
        """Those of a graph whose nodes have unique names and stand in topological order."""
        from onnx import numpy_helper

        consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                consumers.setdefault(name, []).append(node)
        tensors = constant_tensors(model.graph)
        scalars = {name: tensor for name, tensor in tensors.items() if len(tensor.dims) == 0}
        constants = tensors.keys() | {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
        return cls(
            model=model,
            constants=frozenset(constants),
            shapes={name: tuple(tensor.dims) for name, tensor in tensors.items()},
            zeros=frozenset(name for name, scalar in scalars.items() if not numpy_helper.to_array(scalar).any()),
            producer={output: node for node in model.graph.node for output in node.output},
            consumers=consumers,
            outputs=frozenset(output.name for output in model.graph.output),
        )

    @cached_property
    def norm_pieces(self) -> frozenset[str]:
        """Names of the nodes of normalizations that are written out."""
        nodes = self.model.graph.node
        return frozenset(nodes[place].name for pieces in norm_pieces(self.model) for place in pieces)

    @cached_property
    def decoding(self) -> frozenset[str]:
        """Names of the nodes between a head and the outputs: no layer with weights but a head is behind them."""
        nodes = list({node.name: node for node in self.producer.values()}.values())
        behind: set[str] = set()
        for node in nodes:  # in topological order
            makers = (self.producer[name].name for name in node.input if name in self.producer)
            if node.name not in self.heads and any(name in self.heads or name in behind for name in makers):
                behind.add(node.name)
        for node in reversed(nodes):
            users = [user for output in node.output for user in self.consumers.get(output, [])]
            if any(user.name not in behind | self.heads for user in users) or _constant_weight(node, self):
                behind.discard(node.name)
        return frozenset(behind)

    def values(self, node: onnx.NodeProto) -> list[str]:
        """The inputs of `node` that are not constant."""
        return [name for name in node.input if name and name not in self.constants]

    def is_int8(self, tensor: str) -> bool:
        """Whether the layer that makes `tensor` computes in INT8."""
        node = self.producer.get(tensor)
        return node is not None and self.precision.get(node.name) is Precision.INT8

    def is_stored(self, tensor: str) -> bool:
        """Whether `tensor` is made in INT8, and stored so for all its readers."""
        node = self.producer.get(tensor)
        if node is None or not self.is_int8(tensor) or node.op_type in PRODUCTS:
            return False
        return node.op_type not in CARRIERS or all(self.is_stored(name) for name in self.values(node))

    def feeds_int8(self, node: onnx.NodeProto, *, sums: bool = True) -> bool:
        """Whether a layer behind `node`, through carriers and activations, computes in INT8.

        The layers with weights must have been decided. `sums`: an addition may be such a layer.
        """
        users = (user for output in node.output for user in self.consumers.get(output, []))
        return any(self._takes_int8(user, sums=sums) for user in users)

    def _takes_int8(self, user: onnx.NodeProto, *, sums: bool) -> bool:
        if user.op_type in CARRIERS | FUSED_ACTIVATIONS | POOLS:
            return self.feeds_int8(user, sums=sums)
        if user.op_type == "Add":
            return sums and len(self.values(user)) == 2
        return user.op_type in STORED_IN_INT8 and self.precision.get(user.name) is Precision.INT8


def _constant_weight(node: onnx.NodeProto, graph: Surroundings) -> bool:
    return node.op_type in WEIGHTED and len(node.input) > 1 and node.input[1] in graph.constants


def _unknown_operator(node: onnx.NodeProto, _graph: Surroundings) -> bool:
    return node.op_type not in _UNDERSTOOD or node.domain not in _DOMAINS


def _embeds_patches(node: onnx.NodeProto, graph: Surroundings) -> bool:
    """A convolution that looks at each number once: what is often written as a linear layer on patches."""
    if node.op_type != "Conv" or node.input[1] not in graph.shapes:
        return False
    strides = next((tuple(attribute.ints) for attribute in node.attribute if attribute.name == "strides"), ())
    return strides == graph.shapes[node.input[1]][2:] and min(strides) > 1


def _makes_angles(node: onnx.NodeProto, graph: Surroundings) -> bool:
    """A sine or cosine, or a layer whose numbers all go into some: FP16 has large ones 0.06 apart from 64 on."""
    if node.op_type in _OF_ANGLES:
        return True
    users = [user for output in node.output for user in graph.consumers.get(output, [])]
    return node.op_type in _TO_ANGLES and bool(users) and all(_makes_angles(user, graph) for user in users)


def _decodes_answer(node: onnx.NodeProto, graph: Surroundings) -> bool:
    return node.name in graph.decoding


def _done_by_int8_layer(node: onnx.NodeProto, graph: Surroundings) -> bool:
    if node.op_type not in FUSED_ACTIVATIONS or not graph.is_int8(node.input[0]):
        return False
    if graph.producer[node.input[0]].op_type in FUSED_ACTIVATIONS:  # a layer applies one, not one upon another
        return False
    return len(graph.consumers[node.input[0]]) == 1 and node.input[0] not in graph.outputs


def _adds_tensors(node: onnx.NodeProto, graph: Surroundings) -> bool:
    return node.op_type == "Add" and len(graph.values(node)) == 2


def _adds_int8(node: onnx.NodeProto, graph: Surroundings) -> bool:
    return _adds_tensors(node, graph) and all(graph.is_stored(name) for name in graph.values(node))


def _moves_int8(node: onnx.NodeProto, graph: Surroundings) -> bool:
    if node.op_type not in CARRIERS or not all(graph.is_int8(name) for name in graph.values(node)):
        return False
    stored = all(graph.is_stored(name) for name in graph.values(node))
    return graph.feeds_int8(node, sums=stored) and _moves_alone(node, graph)


def _moves_alone(node: onnx.NodeProto, graph: Surroundings) -> bool:
    """Whether a carrier brings in no number of its own but zero, which every grid has, and gives one tensor."""
    if node.op_type == "Concat":
        return len(graph.values(node)) == len(node.input)
    if node.op_type == "Pad" and len(node.input) > 2 and node.input[2]:
        return node.input[2] in graph.zeros
    return len([output for output in node.output if output]) == 1


def _pools_int8(node: onnx.NodeProto, graph: Surroundings) -> bool:
    return node.op_type in POOLS and graph.is_int8(node.input[0]) and graph.feeds_int8(node)


def _divides_by_root(node: onnx.NodeProto, graph: Surroundings) -> bool:
    """A piece of a normalization that is written out: a square, the root of it, or what is between and behind."""
    return node.name in graph.norm_pieces


INT8_CONDITIONS: Final[dict[Condition, Callable[[onnx.NodeProto, Surroundings], bool]]] = {
    "constant-weight": _constant_weight,
    "done-by-int8-layer": _done_by_int8_layer,
    "adds-int8": _adds_int8,
    "moves-int8": _moves_int8,
    "pools-int8": _pools_int8,
}
"""Together they say where INT8 is possible: a layer for which none holds has no integer kernel."""

CONDITIONS: Final = {
    **INT8_CONDITIONS,
    "adds-tensors": _adds_tensors,
    "unknown-operator": _unknown_operator,
    "embeds-patches": _embeds_patches,
    "makes-angles": _makes_angles,
    "decodes-answer": _decodes_answer,
    "divides-by-root": _divides_by_root,
}
"""All of them."""
