"""A LayerNorm that is written out, as one operator of opset 17: its squares, which FP16 does not hold, stay inside."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeq.model.graph.element_types import opset_of
from edgeq.model.graph.normalizations import LayerNormInPieces, layer_norms_in_pieces
from edgeq.model.graph.tensors import constant_tensors

__all__ = ["join_layer_norms"]

_SINCE = 17


def join_layer_norms(model: onnx.ModelProto) -> None:
    """Put a LayerNormalization in the place of each LayerNorm in pieces, in place; pieces that nobody reads stay.

    One whose sizes are not known, or whose parts have several types, is left as it is.

    Args:
        model: with inferred shapes and types (`value_info`), and constants in memory.
    """
    if opset_of(model) < _SINCE:
        return
    graph = model.graph
    kinds = {each.name: each.type.tensor_type for each in (*graph.input, *graph.value_info, *graph.output)}
    shapes = {
        name: tuple(axis.dim_value if axis.HasField("dim_value") else None for axis in kind.shape.dim)
        for name, kind in kinds.items()
        if kind.HasField("shape")
    }
    types = {name: kind.elem_type for name, kind in kinds.items()}
    constants = constant_tensors(graph)
    for norm in layer_norms_in_pieces(model, shapes, types):
        sizes = _sizes(norm, constants, shapes)
        if sizes is not None and types.get(norm.source) == types.get(norm.result, 0):
            _join(graph, norm, constants, np.ones(sizes, helper.tensor_dtype_to_np_dtype(types[norm.source])))


def _sizes(
    norm: LayerNormInPieces, constants: Mapping[str, onnx.TensorProto], shapes: Mapping[str, tuple[int | None, ...]]
) -> tuple[int, ...] | None:
    """Of the axes that are normalized; None where they are not known."""
    affine = norm.scale or norm.bias
    known = tuple(constants[affine].dims) if affine else shapes.get(norm.source, ())
    last = known[-norm.axes :]
    sizes = tuple(size for size in last if size is not None)
    return sizes if len(sizes) == norm.axes else None


def _join(
    graph: onnx.GraphProto, norm: LayerNormInPieces, constants: Mapping[str, onnx.TensorProto], ones: np.ndarray
) -> None:
    """Put the operator in the place of the last piece; `ones` has the shape and dtype of a scale."""
    last = graph.node[norm.nodes[-1]]
    inputs = [norm.source, _vector(graph, constants, norm.scale, f"{norm.result}/scale", ones)]
    if norm.bias:
        inputs.append(_vector(graph, constants, norm.bias, f"{norm.result}/bias", ones))
    last.CopyFrom(
        helper.make_node(
            "LayerNormalization",
            inputs,
            [norm.result],
            name=last.name,
            axis=-norm.axes,
            epsilon=norm.epsilon,
        )
    )


def _vector(
    graph: onnx.GraphProto, constants: Mapping[str, onnx.TensorProto], constant: str, name: str, ones: np.ndarray
) -> str:
    """The name of a constant in the shape and dtype of `ones`, which are taken where there is none."""
    values = ones
    if constant:
        held = numpy_helper.to_array(constants[constant])
        if held.shape == ones.shape and held.dtype == ones.dtype:
            return constant
        values = held.reshape(ones.shape).astype(ones.dtype)
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
    return name
