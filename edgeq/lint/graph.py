"""A graph as the rules look at it: who makes and reads what, in which type and shape, what is stored, what is a pair.

Weights are not in it: an initializer may be a reference to its file (`edgeq.model.graph.outline`). Scales, zero points
and other small constants are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from edgeq.errors import first_line
from edgeq.lint.stored import StoredRange, stored_range
from edgeq.model.graph.element_types import SHAPE_READERS, opset_of, without_weights
from edgeq.model.graph.external_data import is_external
from edgeq.model.graph.normalizations import norm_pieces
from edgeq.model.graph.onnx_checks import stored_values
from edgeq.model.graph.tensors import constant_names, constant_tensors
from edgeq.model.graph.wiring import operator
from edgeq.plan.precision import PrecisionPlan

__all__ = ["FLOATS", "PAIR", "WEIGHTED", "LintGraph", "number", "type_name"]

PAIR: Final = ("QuantizeLinear", "DequantizeLinear")
WEIGHTED: Final = ("Conv", "ConvTranspose", "Gemm", "MatMul")
FLOATS: Final = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
_MOVES: Final = ("Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""What may stand between a weight's DequantizeLinear and its layer."""


def number(node: onnx.NodeProto, name: str, default: int) -> int:
    """An attribute that is a whole number.

    Args:
        node: that may have it.
        name: of the attribute.
        default: where the node has none of that name, or one of another kind.
    """
    kinds = (each for each in node.attribute if each.name == name and each.type == onnx.AttributeProto.INT)
    return next((each.i for each in kinds), default)


def type_name(kind: int) -> str:
    """ONNX's name of an element type; its number where it has none."""
    known = dict(TensorProto.DataType.items())
    return next((name for name, value in known.items() if value == kind), str(kind))


class LintGraph:
    """One ONNX graph.

    Attributes:
        model: nodes named, in topological order; what Constant nodes hold are tensors.
        path: where it came from.
        plan: that it should follow; None where nobody said one.
        outer: the graph around it, where it lies inside of a node.
        opset: of ONNX's own operators.
        nodes: of this graph, without those inside of its nodes (`edgeq.lint.bodies`).
        constants: by name: initializers, and what Constant nodes hold as tensors.
        makers: tensor -> the node that makes it.
        readers: tensor -> the nodes that read it, one for each reading input.
        given, outputs: names of the graph's inputs and outputs.
        types_fault: why element types could not be told; empty where they could.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        path: Path,
        plan: PrecisionPlan | None = None,
        outer: LintGraph | None = None,
    ) -> None:
        """Look at a model.

        Args:
            model: is not changed; nodes named, in topological order.
            path: where it came from; external data are beside it.
            plan: that it should follow, where there is one.
            outer: the graph around it, where it lies inside of a node.
        """
        self.model, self.path, self.plan, self.outer = model, path, plan, outer
        self.opset = opset_of(model)
        self.nodes = list(model.graph.node)
        self.constants = constant_tensors(model.graph)
        self.makers = {name: node for node in self.nodes for name in node.output if name}
        self.given = tuple(value.name for value in model.graph.input)
        self.outputs = frozenset(value.name for value in model.graph.output)
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                if name:
                    self.readers.setdefault(name, []).append(node)
        self._ranges: dict[str, StoredRange] = {}
        self._values: dict[str, NDArray[Any] | None] = {}
        self.types_fault = ""
        self._inferred = self._infer()

    # -- types and shapes

    def _infer(self) -> onnx.GraphProto:
        """The graph with what inference finds, each axis of no known size taken for 1."""
        fixed = without_weights(self.model)
        for value in fixed.graph.input:
            for axis in value.type.tensor_type.shape.dim:
                if not axis.HasField("dim_value"):
                    axis.dim_value = 1
        for value in fixed.graph.output:
            value.type.tensor_type.ClearField("shape")
        for strict in (True, False):
            try:
                return onnx.shape_inference.infer_shapes(fixed, check_type=strict, data_prop=True).graph
            except (onnx.shape_inference.InferenceError, ValueError) as error:
                self.types_fault = self.types_fault or first_line(error)
        return fixed.graph

    @property
    def inferred_nodes(self) -> list[onnx.NodeProto]:
        """As `nodes`, with what inference found of the graphs inside of them."""
        return list(self._inferred.node)

    @cached_property
    def known(self) -> frozenset[str]:
        """Names of its inputs, and of what its nodes give."""
        return frozenset((*self.given, *self.makers))

    @cached_property
    def types(self) -> dict[str, int]:
        """The element type of each tensor that inference knows."""
        values = (*self._inferred.input, *self._inferred.value_info, *self._inferred.output)
        found = {value.name: value.type.tensor_type.elem_type for value in values}
        return found | {name: tensor.data_type for name, tensor in self.constants.items()}

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor, for one image; those that inference does not find are missing."""
        values = (*self._inferred.input, *self._inferred.value_info, *self._inferred.output)
        found = {
            value.name: tuple(axis.dim_value or 1 for axis in value.type.tensor_type.shape.dim)
            for value in values
            if value.type.tensor_type.HasField("shape")
        }
        return found | {name: tuple(tensor.dims) for name, tensor in self.constants.items()}

    @cached_property
    def fixed(self) -> frozenset[str]:
        """Names of what does not depend on the graph's inputs."""
        given = frozenset() if self.outer is None else self.outer.fixed.intersection(self.given)
        return constant_names(self.model.graph) | given

    @cached_property
    def computed(self) -> frozenset[str]:
        """Names of what depends on the numbers of the graph's inputs, and not on their shapes alone."""
        around = frozenset() if self.outer is None else self.outer.known - self.outer.computed
        known = set(self.given) - around
        for node in self.nodes:
            if node.op_type not in SHAPE_READERS and known.intersection(node.input):
                known.update(node.output)
        return frozenset(known)

    @cached_property
    def float_types(self) -> Counter[int]:
        """How many computed floating-point tensors there are of each type, pairs aside."""
        names = (name for node in self.nodes if node.op_type not in (*PAIR, "Cast") for name in node.output)
        return Counter(self.types[name] for name in names if name in self.computed and self.types.get(name) in FLOATS)

    @property
    def has_half(self) -> bool:
        """Whether anything is computed in FP16 or BF16: types are chosen then, and FP32 is FP32 on purpose."""
        own = self.float_types[TensorProto.FLOAT16] or self.float_types[TensorProto.BFLOAT16]
        return bool(own) or (self.outer is not None and self.outer.has_half)

    @cached_property
    def has_pairs(self) -> bool:
        """Whether the graph has Q/DQ nodes."""
        return any(node.op_type in PAIR for node in self.nodes)

    # -- constants

    def values(self, name: str) -> NDArray[Any] | None:
        """The numbers of a small constant, in its own shape [...] and dtype; None for weights, and for what is none.

        Raises:
            ModelError: it does not have its whole data.
        """
        if name not in self._values:
            self._values[name] = self._read(name)
        return self._values[name]

    def _read(self, name: str) -> NDArray[Any] | None:
        held = self.constants.get(name)
        return None if held is None or is_external(held) else stored_values(held, self.path, name)

    def stored_range(self, name: str) -> StoredRange:
        """What FP16 would make of a constant of floating-point numbers, weights as well; looked through once.

        Raises:
            ModelError: as for `edgeq.lint.stored.stored_range`.
        """
        if name not in self._ranges:
            self._ranges[name] = stored_range(self.constants[name], self.path)
        return self._ranges[name]

    def is_fixed(self, name: str) -> bool:
        """Whether a tensor is stored, or follows from what is."""
        return name in self.fixed or name in self.constants

    @cached_property
    def norm_pieces(self) -> tuple[tuple[onnx.NodeProto, ...], ...]:
        """The nodes of each normalization that is written out, in their order."""
        pieces = (tuple(self.nodes[place] for place in sorted(places)) for places in norm_pieces(self.model))
        return tuple(nodes for nodes in pieces if any(name in self.computed for node in nodes for name in node.output))

    # -- pairs

    def maker(self, name: str, *operators: str) -> onnx.NodeProto | None:
        """The node that makes a tensor, where it is one of these operators."""
        node = self.makers.get(name)
        return node if node is not None and operator(node) in operators else None

    def is_paired(self, name: str) -> bool:
        """Whether a tensor comes from a DequantizeLinear."""
        return self.maker(name, PAIR[1]) is not None

    def weight_pair(self, name: str) -> onnx.NodeProto | None:
        """The DequantizeLinear of a quantized weight; axes may be moved behind it. None for anything else."""
        node = self.makers.get(name)
        while node is not None and node.op_type in _MOVES and node.input:
            node = self.makers.get(node.input[0])
        return node if node is not None and node.op_type == PAIR[1] and self.is_fixed(node.input[0]) else None

    def stored_weight(self, pair: onnx.NodeProto) -> str:
        """The tensor in which a weight is stored, before its DequantizeLinear or its pair."""
        name = str(pair.input[0])
        while (node := self.maker(name, PAIR[0], *_MOVES)) is not None:
            name = str(node.input[0])
        return name

    @cached_property
    def layers(self) -> tuple[onnx.NodeProto, ...]:
        """The nodes that multiply with a stored weight, quantized or not."""
        return tuple(
            node
            for node in self.nodes
            if operator(node) in WEIGHTED and len(node.input) > 1 and self.is_fixed(node.input[1])
        )

    @cached_property
    def quantized_layers(self) -> tuple[onnx.NodeProto, ...]:
        """Those of `layers` whose weight is quantized."""
        return tuple(node for node in self.layers if self.weight_pair(node.input[1]) is not None)

    def from_integers(self, name: str) -> bool:
        """Whether a tensor comes bare from a layer with a quantized weight, or through its bias and its activation."""
        node = self.makers.get(name)
        while node is not None and (node.op_type in ("Relu", "Clip") or self._adds_bias(node)):
            node = self.makers.get(next((each for each in node.input if not self.is_fixed(each)), ""))
        return node is not None and node.op_type in WEIGHTED and self.weight_pair(node.input[1]) is not None

    def _adds_bias(self, node: onnx.NodeProto) -> bool:
        """Whether a node adds a stored vector to one tensor: exporters write a MatMul's bias so."""
        return node.op_type == "Add" and [self.is_fixed(name) for name in node.input].count(False) == 1

    def pairs(self) -> Iterator[onnx.NodeProto]:
        """Each Q and DQ node, in order."""
        return (node for node in self.nodes if operator(node) in PAIR)

    def axis(self, pair: onnx.NodeProto, rank: int) -> int:
        """Of the scales of a Q or DQ node, counted from the front."""
        given = number(pair, "axis", 1)
        return given + rank if given < 0 else given
