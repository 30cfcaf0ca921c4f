"""A LayerNorm that is written out, as one operator of opset 17: its squares, which FP16 does not hold, stay inside."""

from __future__ import annotations

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
    for norm in layer_norms_in_pieces(model, shapes, types):
        sizes = _sizes(model, norm, shapes)
        if sizes is not None and types.get(norm.source) == types.get(norm.result, 0):
            _join(model, norm, sizes, types[norm.source])


def _sizes(
    model: onnx.ModelProto, norm: LayerNormInPieces, shapes: dict[str, tuple[int | None, ...]]
) -> tuple[int, ...] | None:
    """Of the axes that are normalized; None where they are not known."""
    affine = norm.scale or norm.bias
    known = tuple(constant_tensors(model.graph)[affine].dims) if affine else shapes.get(norm.source, ())
    last = known[-norm.axes :]
    sizes = tuple(size for size in last if size is not None)
    return sizes if len(sizes) == norm.axes else None


def _join(model: onnx.ModelProto, norm: LayerNormInPieces, sizes: tuple[int, ...], kind: int) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    inputs = [norm.source, _vector(model, norm.scale, f"{norm.result}/scale", np.ones(sizes, dtype))]
    if norm.bias:
        inputs.append(_vector(model, norm.bias, f"{norm.result}/bias", np.zeros(sizes, dtype)))
    last = model.graph.node[norm.nodes[-1]]
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


def _vector(model: onnx.ModelProto, constant: str, name: str, otherwise: np.ndarray) -> str:
    """The name of a constant in the shape and type of `otherwise`, which is taken where there is none."""
    if constant:
        values = numpy_helper.to_array(constant_tensors(model.graph)[constant])
        if values.shape == otherwise.shape and values.dtype == otherwise.dtype:
            return constant
        otherwise = values.reshape(otherwise.shape).astype(otherwise.dtype)
    model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(otherwise), name))
    return name
