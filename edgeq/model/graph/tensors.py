"""Names and constants of a graph.

Every node gets a name: plans, reports and rules speak of nodes by name, and ONNX does not demand one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

__all__ = [
    "attribute_graphs",
    "constant_names",
    "constant_tensors",
    "drop_constant_inputs",
    "give_constants_types",
    "name_nodes",
    "node_names",
    "reads",
]

_BARE = {"value_float": "float32", "value_floats": "float32", "value_int": "int64", "value_ints": "int64"}
"""What a Constant may hold beside a tensor (ONNX operators, Constant)."""

_NOT_CONSTANT = ("RandomNormal", "RandomUniform", "Multinomial", "Bernoulli")


def node_names(model: onnx.ModelProto) -> tuple[str, ...]:
    """A unique name for each node of the main graph, in order: its own, or `Conv_12` after its operator and position.

    A name which occurs twice is kept by the first node; the others get `_1`, `_2`, ...
    """
    taken = {node.name for node in model.graph.node if node.name}
    used: set[str] = set()
    names = []
    for index, node in enumerate(model.graph.node):
        name = node.name
        if not name or name in used:
            name = _unused(name or f"{node.op_type}_{index}", taken)
        used.add(name)
        taken.add(name)
        names.append(name)
    return tuple(names)


def name_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the model whose nodes are named as `node_names` says."""
    named = type(model)()
    named.CopyFrom(model)
    for node, name in zip(named.graph.node, node_names(model), strict=True):
        node.name = name
    return named


def _unused(name: str, taken: set[str]) -> str:
    """`name`, or with the first number that makes it new."""
    candidate, number = name, 0
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    return candidate


def attribute_graphs(attribute: onnx.AttributeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that an attribute of a node holds, whatever type it says it has."""
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """The tensors that a node reads, itself or inside a subgraph; twice where it reads one twice."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in attribute_graphs(attribute):
            for inner in graph.node:
                yield from reads(inner)


def constant_tensors(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Constant tensors by name: initializers, and what Constant nodes hold."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        held = [attribute.t for attribute in node.attribute if attribute.name == "value"]
        if node.op_type == "Constant" and held:
            tensors[node.output[0]] = held[0]
    return tensors


def constant_names(graph: onnx.GraphProto) -> frozenset[str]:
    """Names of all tensors which do not depend on the graph's inputs, those computed from constants included."""
    names = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type not in _NOT_CONSTANT and all(name in names or not name for name in node.input):
            names.update(node.output)
    return frozenset(names)


def drop_constant_inputs(model: onnx.ModelProto) -> None:
    """Take initializers out of the graph's inputs, in place.

    Before IR 4 each initializer had to be listed there; since then a listed one may be replaced by the caller,
    which no weight of a finished network should be.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(inputs)
        model.ir_version = max(model.ir_version, 4)


def give_constants_types(model: onnx.ModelProto) -> None:
    """Constant nodes that hold a bare number, or several, hold a tensor instead, in place."""
    import numpy as np
    from onnx import helper, numpy_helper

    for node in (node for node in model.graph.node if node.op_type == "Constant"):
        for held in node.attribute:
            kind = _BARE.get(held.name)
            if kind is not None:
                values = np.array(helper.get_attribute_value(held), kind)
                held.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(values)))
