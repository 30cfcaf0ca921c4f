"""Complete what an ONNX file leaves out or in disorder, where ONNX Runtime runs it all the same.

The ONNX checker wants nodes in topological order, a name for the graph, and types and shapes for its inputs and
outputs. Exporters leave these out, and ONNX Runtime sorts and infers by itself.
"""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.errors import ModelError
from edgeq.model.graph.tensors import reads

if TYPE_CHECKING:
    import onnx

__all__ = ["complete", "sort_nodes"]

_IMAGE_AXES = ("batch", "channels", "height", "width")


def complete(model: onnx.ModelProto, path: Path) -> None:
    """Sort the nodes, name the graph, and describe inputs and outputs, in place.

    An input without a shape is taken for an image, [batch, channels, height, width] with every axis dynamic. Sizes
    below 1, as Paddle's exporter (-1) and MXNet's (0) write them, are dynamic. Types and shapes of outputs come from
    ONNX's shape inference; where that finds none they stay as they are.

    Args:
        model: with local functions inlined.
        path: where it came from, for the message.

    Raises:
        ModelError: the graph has a cycle.
    """
    graph = model.graph
    graph.name = graph.name or "graph"
    _free_sizes(graph)
    sort_nodes(graph, path)
    for value in graph.input:
        if value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape"):
            for axis in _IMAGE_AXES:
                value.type.tensor_type.shape.dim.add().dim_param = axis
    if any(not value.type.tensor_type.HasField("shape") for value in graph.output):
        _describe_outputs(model)


def _free_sizes(graph: onnx.GraphProto) -> None:
    for place, value in enumerate((*graph.input, *graph.output, *graph.value_info)):
        least = 1 if place < len(graph.input) else 0  # what a graph computes may be empty
        for axis in value.type.tensor_type.shape.dim:
            if axis.HasField("dim_value") and axis.dim_value < least:
                axis.ClearField("dim_value")


def sort_nodes(graph: onnx.GraphProto, path: Path) -> None:
    """Put a graph's nodes in topological order, in place; those inside of its nodes stay as they are.

    Args:
        graph: of a model, or of a node.
        path: where it came from, for the message.

    Raises:
        ModelError: it has a cycle.
    """
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    needs = {index: [makers[name] for name in reads(node) if name in makers] for index, node in enumerate(graph.node)}
    if all(needed < index for index, before in needs.items() for needed in before):
        return
    try:
        order = list(TopologicalSorter(needs).static_order())
    except CycleError as error:
        names = ", ".join(graph.node[index].name or graph.node[index].output[0] for index in error.args[1][:5])
        raise ModelError(
            f"{path}: the graph has a cycle: {names}", next_step="export the model to ONNX again"
        ) from error
    nodes = [graph.node[index] for index in order]
    del graph.node[:]
    graph.node.extend(nodes)


def _describe_outputs(model: onnx.ModelProto) -> None:
    """Give the outputs that lack a type or a shape those that inference finds."""
    import onnx

    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.output[:]
    bare.graph.output.extend(onnx.ValueInfoProto(name=value.name) for value in model.graph.output)
    try:
        inferred = onnx.shape_inference.infer_shapes(bare, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError):  # contradictions, or more than 2 GB: the checker speaks
        return
    found = {value.name: value.type for value in (*inferred.graph.value_info, *inferred.graph.output)}
    for value in model.graph.output:
        kind = found.get(value.name)
        if kind is not None and not value.type.tensor_type.HasField("shape"):
            value.type.CopyFrom(kind)
