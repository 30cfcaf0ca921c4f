"""The graphs inside of nodes (the branches of an If, the bodies of Loop and Scan), as the rules look at a graph."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import helper

from edgeq.lint.graph import LintGraph
from edgeq.model.graph.complete import sort_nodes
from edgeq.model.graph.tensors import attribute_graphs, give_constants_types, name_nodes, reads

__all__ = ["bodies"]


def bodies(graph: LintGraph) -> Iterator[tuple[str, LintGraph]]:
    """Each graph inside of a node, and those inside of that: `NODE.ATTRIBUTE`, such as `If_3.then_branch`.

    Raises:
        ModelError: one of them has a cycle.
    """
    for node, seen in zip(graph.nodes, graph.inferred_nodes, strict=True):
        for attribute in seen.attribute:
            for body in attribute_graphs(attribute):
                inner = LintGraph(_alone(graph, body), graph.path, graph.plan, outer=graph)
                where = f"{node.name}.{attribute.name}"
                yield where, inner
                yield from ((f"{where}/{name}", deeper) for name, deeper in bodies(inner))


def _alone(outer: LintGraph, body: onnx.GraphProto) -> onnx.ModelProto:
    """A body as a model of its own: what it reads of the graph around it are inputs and stored tensors."""
    names = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
    names |= {name for node in body.node for name in node.output}
    read = dict.fromkeys(name for node in body.node for name in reads(node) if name not in names)
    stored, inputs = list(body.initializer), list(body.input)
    for name in read:
        if (held := outer.constants.get(name)) is not None:
            stored.append(onnx.TensorProto())
            stored[-1].CopyFrom(held)
            stored[-1].name = name  # that in a Constant node may have none
        elif name in outer.types:
            inputs.append(helper.make_tensor_value_info(name, outer.types[name], outer.shapes.get(name)))
    graph = helper.make_graph(body.node, body.name or "body", inputs, body.output, stored)
    sort_nodes(graph, outer.path)
    model = helper.make_model(graph, opset_imports=outer.model.opset_import, ir_version=outer.model.ir_version)
    give_constants_types(model)
    return name_nodes(model)
