"""How many multiplications each layer with weights takes, for one image."""

from __future__ import annotations

import math

import onnx

from edgeq.plan.conditions import WEIGHTED

__all__ = ["multiplication_shares"]


def multiplication_shares(model: onnx.ModelProto) -> dict[str, float]:
    """Layer -> percent of the multiplications of all layers with weights; none where a shape is not known.

    Each number of a weight is used once at each place of what the layer writes.

    Args:
        model: uniquely named nodes; the first axis of every tensor is the batch.
    """
    weights = {value.name: math.prod(value.dims) for value in model.graph.initializer}
    shapes = _shapes(model)
    counts: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type not in WEIGHTED or node.input[1] not in weights:
            continue
        shape = shapes.get(node.output[0], ())
        places = shape[2:] if node.op_type == "Conv" else shape[1:-1]
        if not shape or not all(places):
            return {}
        counts[node.name] = weights[node.input[1]] * math.prod(places)
    total = max(sum(counts.values()), 1)
    return {name: 100.0 * count / total for name, count in counts.items()}


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes as far as they can be inferred; 0 where a length is not known."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    known = (*graph.value_info, *graph.output)
    return {value.name: tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim) for value in known}
