"""A graph's float64 as float32: exporters write Python's numbers as doubles, and no kernel here or in TensorRT wants
them. That the answers stay the same is proved on real images, as everything is that an export changes."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from edgeq.model.graph.wiring import subgraphs

__all__ = ["single_precision"]


def single_precision(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose constants, casts and outputs are float32 where they were float64; `model` itself where none is.

    A graph that is given float64 is left as it is, and so is one with graphs inside its nodes.
    """
    graph = model.graph
    taken = any(value.type.tensor_type.elem_type == TensorProto.DOUBLE for value in graph.input)
    if taken or any(True for node in graph.node for _ in subgraphs(node)) or not _has_doubles(graph):
        return model
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for tensor in made.graph.initializer:
        _narrow(tensor)
    for node in made.graph.node:
        for held in node.attribute:
            if held.type == onnx.AttributeProto.TENSOR:
                _narrow(held.t)
            elif held.name in ("to", "dtype") and held.i == TensorProto.DOUBLE:
                held.i = TensorProto.FLOAT
    for value in made.graph.output:
        if value.type.tensor_type.elem_type == TensorProto.DOUBLE:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    del made.graph.value_info[:]
    return made


def _has_doubles(graph: onnx.GraphProto) -> bool:
    held = (one for node in graph.node for one in node.attribute)
    return any(tensor.data_type == TensorProto.DOUBLE for tensor in graph.initializer) or any(
        (one.type == onnx.AttributeProto.TENSOR and one.t.data_type == TensorProto.DOUBLE)
        or (one.name in ("to", "dtype") and one.i == TensorProto.DOUBLE)
        for one in held
    )


def _narrow(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.DOUBLE:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
