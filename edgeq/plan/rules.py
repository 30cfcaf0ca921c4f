"""The built-in rules for image classifiers.

The rules are asked in order and the first that answers decides. Each is a function from a layer and its surroundings to
a precision and a reason, or None. The last one answers always, so that no layer is left without a precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from edgeq.model.components import head_nodes
from edgeq.model.graph import constant_tensors
from edgeq.plan.precision import Decision, Precision, PrecisionPlan, WeightGranularity

if TYPE_CHECKING:
    import onnx

__all__ = ["CARRIERS", "FUSED_ACTIVATIONS", "POOLS", "WEIGHTED", "plan_classifier"]

WEIGHTED: Final = frozenset({"Conv", "Gemm", "MatMul"})
"""Layers with an INT8 kernel for constant weights, in ONNX Runtime and in TensorRT."""

FUSED_ACTIVATIONS: Final = frozenset({"Relu", "Clip"})
"""Activations that a kernel applies while it writes its result."""

CARRIERS: Final = frozenset(
    {"MaxPool", "Slice", "Pad", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Concat"}
)
"""Layers that move values and compute none: their output lies on the grid of their input."""

POOLS: Final = frozenset({"GlobalAveragePool", "AveragePool"})

Answer = tuple[Precision, str]


@dataclass
class _Graph:
    """What a rule may look at: the graph's links, and the decisions taken so far."""

    constants: frozenset[str]
    zeros: frozenset[str]
    heads: frozenset[str]
    producer: dict[str, onnx.NodeProto]
    consumers: dict[str, list[onnx.NodeProto]]
    outputs: frozenset[str]
    precision: dict[str, Precision] = field(default_factory=dict)

    @classmethod
    def of(cls, model: onnx.ModelProto) -> _Graph:
        from onnx import numpy_helper

        producer = {output: node for node in model.graph.node for output in node.output}
        consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                consumers.setdefault(name, []).append(node)
        tensors = constant_tensors(model.graph)
        constants = tensors.keys() | {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
        return cls(
            constants=frozenset(constants),
            zeros=frozenset(
                name
                for name, tensor in tensors.items()
                if len(tensor.dims) == 0 and not numpy_helper.to_array(tensor).any()
            ),
            heads=frozenset(head_nodes(model)),
            producer=producer,
            consumers=consumers,
            outputs=frozenset(output.name for output in model.graph.output),
        )

    def values(self, node: onnx.NodeProto) -> list[str]:
        """The inputs of `node` that are not constant."""
        return [name for name in node.input if name and name not in self.constants]

    def is_int8(self, tensor: str) -> bool:
        """Whether the layer that makes `tensor` computes in INT8."""
        node = self.producer.get(tensor)
        return node is not None and self.precision.get(node.name) is Precision.INT8

    def feeds_int8(self, node: onnx.NodeProto) -> bool:
        """Whether a layer behind `node`, through carriers and activations, has an INT8 kernel and is no head."""
        return any(self._takes_int8(user) for output in node.output for user in self.consumers.get(output, []))

    def _takes_int8(self, user: onnx.NodeProto) -> bool:
        if user.op_type in CARRIERS | FUSED_ACTIVATIONS | POOLS:
            return self.feeds_int8(user)
        if user.op_type == "Add":
            return len(self.values(user)) == 2
        return user.op_type in WEIGHTED and user.name not in self.heads


def _head(node: onnx.NodeProto, graph: _Graph) -> Answer | None:
    if node.name in graph.heads:
        return Precision.FP32, "the head's error goes straight into the answer"
    return None


def _weighted(node: onnx.NodeProto, graph: _Graph) -> Answer | None:
    if node.op_type in WEIGHTED and len(node.input) > 1 and node.input[1] in graph.constants:
        return Precision.INT8, "integer kernel in both backends"
    return None


def _activation(node: onnx.NodeProto, graph: _Graph) -> Answer | None:
    if node.op_type not in FUSED_ACTIVATIONS or not graph.is_int8(node.input[0]):
        return None
    if len(graph.consumers[node.input[0]]) > 1 or node.input[0] in graph.outputs:
        return None
    return Precision.INT8, f"done by the {graph.producer[node.input[0]].op_type} before it"


def _addition(node: onnx.NodeProto, graph: _Graph) -> Answer | None:
    values = graph.values(node)
    if node.op_type == "Add" and len(values) == 2 and all(graph.is_int8(name) for name in values):
        return Precision.INT8, "residual addition of INT8 tensors"
    return None


def _carrier(node: onnx.NodeProto, graph: _Graph) -> Answer | None:
    if node.op_type not in CARRIERS or not all(graph.is_int8(name) for name in graph.values(node)):
        return None
    if not graph.feeds_int8(node) or not _moves_alone(node, graph):
        return None
    return Precision.INT8, "moves INT8 values, computes none"


def _moves_alone(node: onnx.NodeProto, graph: _Graph) -> bool:
    """Whether a carrier brings in no number of its own but zero, which every grid has, and gives one tensor."""
    if node.op_type == "Concat":
        return len(graph.values(node)) == len(node.input)
    if node.op_type == "Pad" and len(node.input) > 2 and node.input[2]:
        return node.input[2] in graph.zeros
    return len([output for output in node.output if output]) == 1


def _pool(node: onnx.NodeProto, graph: _Graph) -> Answer | None:
    if node.op_type in POOLS and graph.is_int8(node.input[0]) and graph.feeds_int8(node):
        return Precision.INT8, "average of INT8 values for an INT8 layer"
    return None


def _batchnorm(node: onnx.NodeProto, _graph: _Graph) -> Answer | None:
    if node.op_type == "BatchNormalization":
        return Precision.FP32, "not folded, and no integer kernel"
    return None


def _otherwise(_node: onnx.NodeProto, _graph: _Graph) -> Answer:
    return Precision.FP32, "no integer kernel beside INT8 layers"


_RULES: Final[dict[str, Callable[[onnx.NodeProto, _Graph], Answer | None]]] = {
    "fp32-head": _head,
    "fp32-batchnorm": _batchnorm,
    "int8-weighted": _weighted,
    "int8-activation": _activation,
    "int8-add": _addition,
    "int8-carrier": _carrier,
    "int8-pool": _pool,
    "fp32-otherwise": _otherwise,
}


def plan_classifier(
    model: onnx.ModelProto,
    *,
    weights: WeightGranularity = "per-channel",
    shared_add: bool = True,
    keep_batchnorm: tuple[str, ...] = (),
) -> PrecisionPlan:
    """Decide the precision of every layer of a folded classifier.

    Args:
        model: FP32 graph with uniquely named nodes, in topological order.
        weights: granularity of the INT8 weight scales.
        shared_add: put both inputs of an INT8 addition on one scale.
        keep_batchnorm: BatchNormalization nodes that were kept on purpose.
    """
    return PrecisionPlan(
        weights=weights,
        shared_add=shared_add,
        keep_batchnorm=keep_batchnorm,
        decisions=tuple(_decide(model)),
    )


def _decide(model: onnx.ModelProto) -> Iterator[Decision]:
    graph = _Graph.of(model)
    for node in model.graph.node:
        if node.op_type == "Constant":
            continue
        for name, rule in _RULES.items():
            answer = rule(node, graph)
            if answer is not None:
                precision, reason = answer
                graph.precision[node.name] = precision
                yield Decision(layer=node.name, op=node.op_type, precision=precision, rule=name, reason=reason)
                break
