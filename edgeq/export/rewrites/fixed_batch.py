"""Let a graph that was exported for a fixed number of images take any number.

An exporter that was given no dynamic axes writes the batch size as a number: into the input's shape, into the shapes of
Reshape (`[1, 64]`), and into constants that stand for every image, as the class token of a vision transformer does.
torch's attention has it on other axes as well (`edgeq.export.rewrites.batch_axis`). What is done here says the same of
that batch size; that it is right for others must be proved by running them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.export.rewrites.batch_axis import Traced, freed_shape, reshaped, shapes_for, trace_images
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
    for _ in model.graph.node:  # each time as far as images can be followed
        if not _free_traced(made, batch):
            break
    followed, shapes, wiring = trace_images(made, batch or 1), shapes_for(made, batch or 1), Wiring(made)
    for node in list(wiring.nodes):
        if operator(node) == "Reshape" and node.input[0] not in followed:
            _free_reshape(wiring, node, shapes, batch)
        elif batch is not None and operator(node) == "Resize":
            _free_sizes(wiring, node, batch)
        elif batch is not None and operator(node) in _RECURRENT:
            _drop_zero_states(wiring, node)
    wiring.finish()
    return made


def _free_traced(model: onnx.ModelProto, batch: int | None) -> bool:
    """Free what reads tensors whose images can be followed, and say whether anything was freed."""
    traced, wiring, freed = trace_images(model, batch or 1), Wiring(model), False
    images = model.graph.input[0].name
    for node in list(wiring.nodes):
        kind, sources = operator(node), [traced[name] for name in node.input if name in traced]
        if not sources:
            continue
        if kind == "Reshape":
            freed |= node.input[0] in traced and _reshape_traced(wiring, node, sources[0], batch)
        elif batch is not None and kind in (*_BROADCASTING, "Concat"):
            freed |= _fit_constants(wiring, node, traced, batch, images)
        elif batch is not None and kind == "Expand":
            freed |= _expand_traced(wiring, node, sources[0])
    if freed:
        wiring.finish()
    return freed


def _reshape_traced(wiring: Wiring, node: onnx.NodeProto, source: Traced, batch: int | None) -> bool:
    """A Reshape says `-1`, or 0, for the axis that images are on."""
    wanted, made = wiring.constant(node.input[1]), reshaped(wiring, node, source)
    if wanted is None or made is None or (batch is None and (wanted <= 0).any()):
        return False
    freed = freed_shape(wanted.tolist(), made, source, batch or 1)
    if freed is not None:
        _store_shape(wiring, node, np.array(freed, np.int64))
    return freed is not None


def _expand_traced(wiring: Wiring, node: onnx.NodeProto, source: Traced) -> bool:
    """Expand to a shape with the batch in it: 1 leaves the images as many as they are."""
    wanted = wiring.constant(node.input[1])
    place = 0 if wanted is None else len(wanted) - len(source.lengths) + source.axis
    if wanted is None or place < 0 or wanted[place] in (1, -1) or wanted[place] != source.lengths[source.axis]:
        return False
    freed = wanted.copy()
    freed[place] = 1
    wiring.store(node, 1, freed, f"{label(node)}/shape")
    return True


def _fit_constants(wiring: Wiring, node: onnx.NodeProto, traced: Mapping[str, Traced], batch: int, images: str) -> bool:
    """A constant beside images that has the same for each of them has it once, spread or repeated over all."""
    beside = max((traced[name] for name in node.input if name in traced), key=lambda each: len(each.lengths))
    behind = len(beside.lengths) - beside.axis  # axes are counted from the last, as broadcasting does
    joins = operator(node) == "Concat"
    if beside.outer != 1 or (operator(node) == "MatMul" and behind <= 2):  # the last two axes are no images
        return False
    if joins and attribute(node, "axis", 0) % len(beside.lengths) == beside.axis:
        return False
    each, fitted = beside.lengths[beside.axis] // batch, False
    for place, name in enumerate(node.input):
        value = wiring.constant(name)
        axis = -1 if value is None else value.ndim - behind
        if value is None or axis < 0 or value.shape[axis] != each * batch or (each * batch == 1 and not joins):
            continue
        once = _once(value, axis, batch)
        if once is None:
            continue
        if each == 1 and not joins:
            wiring.store(node, place, once, f"{label(node)}/input{place}")
        else:
            wiring.set_input(node, place, _repeated(wiring, node, place, once, axis, images))
        fitted = True
    return fitted


def _once(value: NDArray[Any], axis: int, batch: int) -> NDArray[Any] | None:
    """The part of a constant that is for one image; None where images have different ones."""
    parts = np.split(value, batch, axis=axis)
    return parts[0] if all(np.array_equal(part, parts[0]) for part in parts[1:]) else None


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
        _store_shape(wiring, node, freed)


def _store_shape(wiring: Wiring, node: onnx.NodeProto, shape: NDArray[np.int64]) -> None:
    wiring.store(node, 1, shape, f"{label(node)}/shape")
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


def _drop_zero_states(wiring: Wiring, node: onnx.NodeProto) -> None:
    """States that begin at zero, [directions, batch, hidden], are left out: that is what no state means."""
    for place in (5, 6):
        if len(node.input) > place and node.input[place] and _is_zero(wiring, node.input[place]):
            wiring.set_input(node, place, "")


def _is_zero(wiring: Wiring, tensor: str) -> bool:
    """Whether a tensor is zeros, as they are or spread by an Expand."""
    maker = wiring.producer(tensor)
    if maker is not None and operator(maker) == "Expand":
        tensor = maker.input[0]
    value = wiring.constant(tensor)
    return value is not None and not value.any()


def _images(wiring: Wiring, tensor: str, name: str) -> tuple[onnx.NodeProto, onnx.NodeProto]:
    """Nodes that make `name`, int64 [1], the number of images in a tensor; in a form that every opset has."""
    shape = onnx.helper.make_node("Shape", [tensor], [f"{name}/shape"], name=f"{name}/shape")
    first = wiring.add_constant(np.zeros(1, np.int64), f"{name}/first")
    return shape, onnx.helper.make_node("Gather", [shape.output[0], first], [name], name=name, axis=0)


def _repeated(wiring: Wiring, node: onnx.NodeProto, place: int, once: NDArray[Any], axis: int, images: str) -> str:
    """The tensor that has `once` for each of `images`: on an axis of its own first, then joined with `axis`."""
    stem, before, behind = f"{label(node)}/input{place}", once.shape[:axis], once.shape[axis:]
    held = wiring.add_constant(once.reshape(*before, 1, *behind), f"{stem}/row")
    ones = [wiring.add_constant(np.ones(len(lengths), np.int64), f"{stem}/ones") for lengths in (before, behind)]
    joined = wiring.add_constant(np.array([*before, _REST, *behind[1:]], np.int64), f"{stem}/joined")
    parts = [ones[0], f"{stem}/images", ones[1]]
    shape = onnx.helper.make_node("Concat", parts, [f"{stem}/shape"], name=f"{stem}/shape", axis=0)
    spread = onnx.helper.make_node("Expand", [held, shape.output[0]], [f"{stem}/spread"], name=f"{stem}/spread")
    rows = onnx.helper.make_node("Reshape", [spread.output[0], joined], [f"{stem}/rows"], name=f"{stem}/rows")
    wiring.insert_before(node, (*_images(wiring, images, f"{stem}/images"), shape, spread, rows))
    return str(rows.output[0])
