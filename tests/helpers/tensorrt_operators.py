"""What TensorRT's parser takes, by its published table: onnx-tensorrt, docs/operators.md, release 10.1.

Only operators that two-tower models have are here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import onnx
from onnx import TensorProto

from edgeq.model.graph.element_types import element_types
from edgeq.model.graph.tensors import constant_tensors

__all__ = ["refused"]

_FLOAT: Final = {TensorProto.FLOAT, TensorProto.FLOAT16}
_NUMBERS: Final = _FLOAT | {TensorProto.INT32, TensorProto.INT64}
_ANY: Final = _NUMBERS | {TensorProto.BOOL}
_PAIR: Final = _FLOAT | {TensorProto.INT8}  # the table names the integers; scales have the floats' type

_TAKEN: Final = {
    **dict.fromkeys(("Add", "ArgMax", "Div", "Mul", "Range"), _NUMBERS),
    **dict.fromkeys(("Cast", "Concat", "Expand", "Flatten", "Gather", "Reshape", "Shape", "Slice", "Squeeze"), _ANY),
    **dict.fromkeys(("Tile", "Transpose", "Unsqueeze", "Where"), _ANY),
    **dict.fromkeys(("Equal", "LessOrEqual"), _ANY),  # what they write is BOOL
    **dict.fromkeys(("Conv", "Gemm", "LayerNormalization", "MatMul", "Sigmoid", "Softmax", "Tanh"), _FLOAT),
    **dict.fromkeys(("DequantizeLinear", "QuantizeLinear"), _PAIR),
}
_CONSTANT: Final = {"Slice": 3, "Squeeze": 1, "Unsqueeze": 1}
"""Operator -> which of its inputs, the `axes`, must be constant."""


def refused(model: onnx.ModelProto) -> list[str]:
    """The nodes of a graph that the table does not have, in words; indices and shapes may be int64 everywhere."""
    return list(_refused(model))


def _refused(model: onnx.ModelProto) -> Iterator[str]:
    types, constants = element_types(model), constant_tensors(model.graph)
    for node in model.graph.node:
        if node.op_type not in _TAKEN:
            yield f"{node.name}: no operator {node.op_type}"
            continue
        touched = {types[tensor] for tensor in (*node.input, *node.output) if tensor}
        for other in touched - _TAKEN[node.op_type] - {TensorProto.INT64}:
            yield f"{node.name}: {node.op_type} of {TensorProto.DataType.Name(other)}"
        axes = node.input[_CONSTANT.get(node.op_type, 0) :][:1]
        if node.op_type in _CONSTANT and axes and axes[0] not in constants:
            yield f"{node.name}: the axes of {node.op_type} are computed"
