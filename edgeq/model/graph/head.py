"""Find a classifier's head by structure: the last layer with weights on the way to the logits."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from edgeq.model.graph.tensors import constant_names, constant_tensors, node_names

if TYPE_CHECKING:
    import onnx

__all__ = ["head_nodes"]

# What may stand between the head and the output: it computes with one tensor and has no weights.
_PASSED = frozenset(
    {
        *(
            "Cast",
            "Clip",
            "Flatten",
            "Identity",
            "LogSoftmax",
            "Relu",
            "Reshape",
            "Sigmoid",
            "Softmax",
            "Squeeze",
            "Transpose",
        ),
        *("Unsqueeze", "AveragePool", "GlobalAveragePool", "ReduceMean"),
    }
)


def head_nodes(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names (as `node_names` gives them) of the head's nodes, in the order of the graph.

    From each output the graph is followed back over shapes, pooling and activations to a Gemm, a MatMul with a constant
    (and the Add of its bias), or a 1x1 convolution. Anything else, such as a residual Add or a 3x3 convolution, means
    that there is no head.
    """
    graph = model.graph
    producers = {name: index for index, node in enumerate(graph.node) for name in node.output}
    fixed = constant_names(graph)
    tensors = constant_tensors(graph)
    found = {index for output in graph.output for index in _follow(graph, output.name, producers, fixed, tensors)}
    names = node_names(model)
    return tuple(names[index] for index in sorted(found))


def _follow(
    graph: onnx.GraphProto,
    tensor: str,
    producers: Mapping[str, int],
    fixed: Collection[str],
    tensors: Mapping[str, onnx.TensorProto],
) -> tuple[int, ...]:
    """Indices of the head's nodes behind one tensor; empty when there is none."""
    bias: tuple[int, ...] = ()
    while tensor in producers:
        index = producers[tensor]
        node = graph.node[index]
        variable = [name for name in node.input if name and name not in fixed]
        if not variable:
            return ()
        if len(variable) == 1 and (node.op_type in ("Gemm", "MatMul") or _is_pointwise(node, tensors)):
            return (index, *bias)
        if node.op_type == "Add" and len(variable) == 1 and not bias:
            bias = (index,)
        elif bias or node.op_type not in _PASSED:  # between a product and its bias there is nothing
            return ()
        tensor = variable[0]
    return ()


def _is_pointwise(node: onnx.NodeProto, tensors: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether a node is a convolution with a 1x1 kernel."""
    weight = tensors.get(node.input[1]) if node.op_type == "Conv" else None
    return weight is not None and all(length == 1 for length in weight.dims[2:])
