"""Let a graph that was exported for a fixed number of images take any number.

An exporter that was given no dynamic axes writes the batch size as a number: into the input's shape, into the shapes of
Reshape (`[1, 64]`), and into constants that stand for every image, as the class token of a vision transformer does.
What is done here says the same of that batch size; that it is right for others must be proved by running them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.model.graph.wiring import Wiring, attribute, label, operator

__all__ = ["fixed_batch", "free_batch", "with_dynamic_batch"]

_COPY, _REST = 0, -1  # in Reshape's shape: the input's axis, and what is left
_RECURRENT = ("LSTM", "GRU", "RNN")
_BROADCASTING = ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Where", "MatMul", "Equal", "Greater", "Less")


def fixed_batch(model: onnx.ModelProto) -> int | None:
    """The number of images that the graph's first input is fixed to; None where that axis is dynamic, or not there."""
    axes = model.graph.input[0].type.tensor_type.shape.dim if model.graph.input else ()
    return (axes[0].dim_value or None) if axes else None


def with_dynamic_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` whose first axis is called `batch` on its input and its outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in (*copy.graph.input, *copy.graph.output):
        axes = value.type.tensor_type.shape.dim
        if axes:
            axes[0].dim_param = "batch"
    del copy.graph.value_info[:]
    return copy


def free_batch(model: onnx.ModelProto, batch: int | None) -> onnx.ModelProto:
    """A copy in which reshapes and constants beside images no longer hold the batch size.

    Args:
        model: simplified, its inputs with a dynamic first axis; shape arithmetic that is left is not touched.
        batch: what it was fixed to. None for a graph that claims to be dynamic: there a Reshape is changed only where
            it could run with one image and no other number.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    wiring = Wiring(made)
    shapes = _shapes(made, batch or 1)
    for node in list(wiring.nodes):
        if operator(node) == "Reshape":
            _free_reshape(wiring, node, shapes, batch)
        elif batch is not None:
            _free_constants(wiring, node, shapes, batch)
    wiring.finish()
    return made


def _shapes(model: onnx.ModelProto, batch: int) -> dict[str, tuple[int | None, ...]]:
    """The shape of each tensor as inference finds it for `batch` images."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    for value in bare.graph.output:
        value.type.tensor_type.ClearField("shape")
    for value in bare.graph.input:
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_value = batch
    try:
        inferred = onnx.shape_inference.infer_shapes(bare, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError):
        return {}
    return {
        value.name: tuple(
            axis.dim_value if axis.HasField("dim_value") else None for axis in value.type.tensor_type.shape.dim
        )
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
        if value.type.tensor_type.HasField("shape")
    }


def _free_reshape(
    wiring: Wiring, node: onnx.NodeProto, shapes: dict[str, tuple[int | None, ...]], batch: int | None
) -> None:
    """`[1, 64]` becomes `[0, 64]` where the first axis is the input's, and `[-1, 64]` where it is a multiple."""
    wanted, source = wiring.constant(node.input[1]), shapes.get(node.input[0])
    if wanted is None or not wanted.size or not source or (attribute(node, "allowzero", 0) and not wanted.all()):
        return
    whole = bool((wanted > 0).all())
    if wanted[0] <= 0 or wanted[0] % (batch or 1) or (batch is None and not (whole and wanted[0] == 1 == source[0])):
        return
    freed = _freed(wanted, source, shapes.get(node.output[0]))
    if freed is not None:
        wiring.store(node, 1, freed, f"{label(node)}/shape")
        left = [one for one in node.attribute if one.name != "allowzero"]  # 0 is a copy from now on
        del node.attribute[:]
        node.attribute.extend(left)


def _freed(
    wanted: NDArray[Any], source: tuple[int | None, ...], result: tuple[int | None, ...] | None
) -> NDArray[np.int64] | None:
    if wanted[0] == source[0]:
        return np.array([_COPY, *wanted[1:]], np.int64)
    if (wanted[1:] > 0).all():
        return np.array([_REST, *wanted[1:]], np.int64)
    if result is not None and None not in result[1:]:
        return np.array([_REST, *(int(axis or 0) for axis in result[1:])], np.int64)
    return None


def _free_constants(
    wiring: Wiring, node: onnx.NodeProto, shapes: dict[str, tuple[int | None, ...]], batch: int
) -> None:
    """The other places where an exporter writes the number of images: sizes, states, rows beside images."""
    kind = operator(node)
    if kind == "Concat":
        _free_concat(wiring, node, shapes, batch)
    elif kind == "Resize":
        _free_sizes(wiring, node, batch)
    elif kind == "Expand":
        _free_expand(wiring, node, shapes, batch)
    elif kind in _RECURRENT:
        _drop_zero_states(wiring, node)
    elif kind in _BROADCASTING and batch > 1:
        _free_operands(wiring, node, shapes, batch)


def _free_sizes(wiring: Wiring, node: onnx.NodeProto, batch: int) -> None:
    """Resize to sizes that begin with the batch: that one is read from the images."""
    sizes = wiring.constant(node.input[3]) if len(node.input) > 3 and node.input[3] else None
    if sizes is None or attribute(node, "axes", None) is not None or len(sizes) < 2 or sizes[0] != batch:
        return
    stem = f"{label(node)}/sizes"
    rest = wiring.add_constant(sizes[1:], f"{stem}/rest")
    whole = onnx.helper.make_node("Concat", [f"{stem}/images", rest], [stem], name=stem, axis=0)
    wiring.insert_before(node, (*_images(wiring, node.input[0], f"{stem}/images"), whole))
    wiring.set_input(node, 3, stem)


def _free_expand(wiring: Wiring, node: onnx.NodeProto, shapes: dict[str, tuple[int | None, ...]], batch: int) -> None:
    """Expand to a shape that begins with the batch: 1 leaves the images as many as they are."""
    wanted, source = wiring.constant(node.input[1]), shapes.get(node.input[0])
    if wanted is not None and source and len(source) == len(wanted) and source[0] == wanted[0] == batch:
        wiring.store(node, 1, np.array([1, *wanted[1:]], np.int64), f"{label(node)}/shape")


def _drop_zero_states(wiring: Wiring, node: onnx.NodeProto) -> None:
    """States that begin at zero, [directions, batch, hidden], are left out: that is what no state means."""
    for place in (5, 6):
        state = wiring.constant(node.input[place]) if len(node.input) > place and node.input[place] else None
        if state is not None and not state.any():
            wiring.set_input(node, place, "")


def _free_operands(wiring: Wiring, node: onnx.NodeProto, shapes: dict[str, tuple[int | None, ...]], batch: int) -> None:
    """A constant with the same row for each image is one row, which is spread over all."""
    ranks = [len(shapes.get(name) or ()) for name in node.input if wiring.constant(name) is None]
    for place, name in enumerate(node.input):
        value = wiring.constant(name)
        least = 3 if operator(node) == "MatMul" else 1  # the last two axes of a MatMul are no images
        if value is None or value.ndim < least or value.ndim != max(ranks, default=0) or len(value) != batch:
            continue
        if (value == value[:1]).all():
            wiring.store(node, place, value[:1], f"{label(node)}/input{place}")


def _free_concat(wiring: Wiring, node: onnx.NodeProto, shapes: dict[str, tuple[int | None, ...]], batch: int) -> None:
    """A constant that has a row for each image is repeated as often as there are images."""
    images = next((name for name in node.input if wiring.constant(name) is None), None)
    if images is None or attribute(node, "axis", 0) == 0 or (shapes.get(images) or (None,))[0] != batch:
        return
    for place, name in enumerate(node.input):
        value = wiring.constant(name)
        if value is not None and value.ndim and len(value) == batch and (value == value[:1]).all():
            rows = _repeated(wiring, node, place, value[:1], images)
            wiring.set_input(node, place, rows)


def _images(wiring: Wiring, tensor: str, name: str) -> tuple[onnx.NodeProto, onnx.NodeProto]:
    """Nodes that make `name`, int64 [1], the number of images in a tensor; in a form that every opset has."""
    shape = onnx.helper.make_node("Shape", [tensor], [f"{name}/shape"], name=f"{name}/shape")
    first = wiring.add_constant(np.zeros(1, np.int64), f"{name}/first")
    return shape, onnx.helper.make_node("Gather", [shape.output[0], first], [name], name=name, axis=0)


def _repeated(wiring: Wiring, node: onnx.NodeProto, place: int, row: NDArray[Any], images: str) -> str:
    """The tensor that has `row` once for each of `images`: Expand to their number."""
    stem = f"{label(node)}/input{place}"
    ones = wiring.add_constant(np.ones(row.ndim - 1, np.int64), f"{stem}/ones")
    shape = onnx.helper.make_node("Concat", [f"{stem}/images", ones], [f"{stem}/shape"], name=f"{stem}/shape", axis=0)
    held = wiring.add_constant(row, f"{stem}/row")
    expand = onnx.helper.make_node("Expand", [held, shape.output[0]], [f"{stem}/rows"], name=f"{stem}/rows")
    wiring.insert_before(node, (*_images(wiring, images, f"{stem}/images"), shape, expand))
    return str(expand.output[0])
