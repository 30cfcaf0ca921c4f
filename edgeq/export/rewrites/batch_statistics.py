"""BatchNormalization in training mode, as torch's tracing exporter writes weight standardization, as plain arithmetic.

It normalizes by the mean and the variance of what it is given. ONNX Runtime takes the two inputs for those instead,
which the exporter computes as torch's running statistics: with a variance divided by n - 1. Reference: ONNX's
BatchNormalization-15, `training_mode`.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

__all__ = ["write_out_batch_statistics"]

_AXES_ARE_INPUT = 18
"""The opset from which ReduceMean takes its axes as an input."""


def write_out_batch_statistics(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without BatchNormalization in training mode, where their inputs' numbers of axes are known.

    Args:
        model: is not changed.
    """
    if not any(map(_trains, model.graph.node)):
        return model
    graph = gs.import_onnx(onnx.shape_inference.infer_shapes(model))
    for node in list(graph.nodes):
        if node.op == "BatchNormalization" and node.attrs.get("training_mode") and node.inputs[0].shape is not None:
            _write_out(graph, node)
    written: onnx.ModelProto = gs.export_onnx(graph.cleanup().toposort(), do_type_check=False)
    written.ir_version = model.ir_version
    return written


def _trains(node: onnx.NodeProto) -> bool:
    return node.op_type == "BatchNormalization" and any(
        attribute.name == "training_mode" and attribute.i for attribute in node.attribute
    )


def _write_out(graph: gs.Graph, node: gs.Node) -> None:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, with the variance divided by n."""
    x, scale, bias, *_ = node.inputs
    rank = len(x.shape)
    mean = _mean(graph, x, rank)
    centred = _made(graph, "Sub", x, mean)
    variance = _mean(graph, _made(graph, "Mul", centred, centred), rank)
    epsilon = _constant(graph, float(node.attrs.get("epsilon", 1e-5)))
    deviation = _made(graph, "Sqrt", _made(graph, "Add", variance, epsilon))
    column = _constant(graph, [1, -1, *[1] * (rank - 2)])
    scaled = _made(graph, "Mul", _made(graph, "Div", centred, deviation), _made(graph, "Reshape", scale, column))
    given = node.outputs[0]
    node.outputs.clear()
    graph.layer(op="Add", inputs=[scaled, _made(graph, "Reshape", bias, column)], outputs=[given])


def _mean(graph: gs.Graph, x: gs.Tensor, rank: int) -> gs.Tensor:
    """Over all axes but that of the channels."""
    axes = [axis for axis in range(rank) if axis != 1]
    if graph.opset < _AXES_ARE_INPUT:
        return _made(graph, "ReduceMean", x, axes=axes, keepdims=1)
    return _made(graph, "ReduceMean", x, _constant(graph, axes), keepdims=1)


def _made(graph: gs.Graph, op: str, *inputs: gs.Tensor, **attributes: object) -> gs.Tensor:
    return graph.layer(op=op, inputs=list(inputs), outputs=[_name(graph)], attrs=attributes)[0]


def _constant(graph: gs.Graph, values: float | list[int]) -> gs.Constant:
    array = np.array(values, np.float32 if isinstance(values, float) else np.int64)
    return gs.Constant(_name(graph), array)


def _name(graph: gs.Graph) -> str:
    """One that the graph does not have yet."""
    graph.name_idx += 1
    return f"batch_statistics_{graph.name_idx}"
