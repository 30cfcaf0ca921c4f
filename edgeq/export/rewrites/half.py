"""FP16 to FP32: each number of FP16 is one of FP32, so that weights stay what they are; only rounding becomes finer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from edgeq.model.graph.wiring import subgraphs

__all__ = ["has_half", "to_float32"]

_HALF, _FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT
_TYPES: Final = frozenset({"dtype", "to"})
"""Attributes whose value is an element type (Cast, EyeLike, RandomNormal)."""


def has_half(model: onnx.ModelProto) -> bool:
    """Whether any input, weight or operator says FP16."""
    return any(
        any(tensor.data_type == _HALF for tensor in graph.initializer)
        or any(value.type.tensor_type.elem_type == _HALF for value in (*graph.input, *graph.output))
        or any(_says_half(item) for node in graph.node for item in node.attribute)
        for graph in _graphs(model.graph)
    )


def to_float32(model: onnx.ModelProto) -> None:
    """Put FP32 in the place of FP16, in `model` itself and in the graphs inside its nodes."""
    for graph in _graphs(model.graph):
        del graph.value_info[:]
        for tensor in graph.initializer:
            _widen(tensor)
        for value in (*graph.input, *graph.output):
            if value.type.tensor_type.elem_type == _HALF:
                value.type.tensor_type.elem_type = _FLOAT
        for node in graph.node:
            for item in node.attribute:
                _widen_attribute(item)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from _graphs(inner)


def _says_half(item: onnx.AttributeProto) -> bool:
    return (item.name in _TYPES and item.i == _HALF) or item.t.data_type == _HALF


def _widen_attribute(item: onnx.AttributeProto) -> None:
    if item.type == onnx.AttributeProto.INT and item.name in _TYPES and item.i == _HALF:
        item.i = _FLOAT
    elif item.type == onnx.AttributeProto.TENSOR:
        _widen(item.t)


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == _HALF:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
