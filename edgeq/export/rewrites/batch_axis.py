"""Follow images through a graph that was exported for a fixed number of them: which axis of each tensor are they on?

torch's attention brings images to the second axis, joins them with heads, `[tokens, images * heads, width]`, and
flattens them with tokens. Shape inference for a prime number of images shows which axis grows with their number, as far
as it gets: behind a Reshape with constant lengths it says what these say. Where in that axis the images are follows
from the order of numbers in memory, which no Reshape changes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import onnx
from numpy.typing import NDArray

from edgeq.model.graph.element_types import without_weights
from edgeq.model.graph.wiring import Wiring, attribute, operator

__all__ = ["Traced", "freed_shape", "reshaped", "shapes_for", "trace_images"]

_PRIME: Final = 7919
"""Times as many images as the graph was exported for: no length of a real network is a multiple of it."""

_KEEP, _REST = 0, -1  # in Reshape's shape: the input's axis, and what is left
_REORDERS_NOTHING: Final = ("Reshape", "Flatten")


@dataclass(frozen=True)
class Traced:
    """A tensor that grows with the number of images.

    Attributes:
        lengths: of its axes, for as many images as the graph was exported for.
        axis: that grows.
        outer: numbers of that axis that change slower than images do: 1 where all of one image lie together.
    """

    lengths: tuple[int, ...]
    axis: int
    outer: int

    @property
    def before(self) -> int:
        """The product of all lengths that change slower than images do."""
        return math.prod(self.lengths[: self.axis]) * self.outer


def trace_images(model: onnx.ModelProto, batch: int) -> dict[str, Traced]:
    """The tensors of a graph that are known to grow with the number of images along one axis.

    Args:
        model: nodes in order; its first input begins with the number of images.
        batch: how many it was exported for.
    """
    lengths, found = _lengths(model, batch * _PRIME), dict[str, Traced]()
    first = model.graph.input[0].name
    _note(found, first, lengths.get(first), 1)
    for node in model.graph.node:
        sources = [found[name] for name in node.input if name in found]
        if not sources:
            continue
        for name in node.output:
            if operator(node) in _REORDERS_NOTHING:
                _note(found, name, lengths.get(name), None, sources[0].before)
            else:
                _note(found, name, lengths.get(name), sources[0].outer)
    return found


def _note(
    found: dict[str, Traced], name: str, lengths: tuple[int, ...] | None, outer: int | None, before: int = 1
) -> None:
    """Keep what is known of a tensor: `outer`, or without it what follows from all that stands `before` images."""
    grows = [axis for axis, length in enumerate(lengths or ()) if length % _PRIME == 0]
    if lengths is None or len(grows) != 1:
        return
    axis = grows[0]
    usual = tuple(length // _PRIME if place == axis else length for place, length in enumerate(lengths))
    if outer is None:
        outer, rest = divmod(before, math.prod(usual[:axis]))
        if rest or not outer or usual[axis] % outer:
            return
    found[name] = Traced(usual, axis, outer)


def shapes_for(model: onnx.ModelProto, images: int) -> dict[str, tuple[int | None, ...]]:
    """The shape of each tensor as inference finds it for a number of images; None for an axis that it does not know."""
    bare = without_weights(model)
    for value in bare.graph.output:
        value.type.tensor_type.ClearField("shape")
    for value in bare.graph.input[: len(model.graph.input)]:
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_value = images
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


def _lengths(model: onnx.ModelProto, images: int) -> dict[str, tuple[int, ...]]:
    """Of those whose axes are all known, and none empty."""
    shapes = shapes_for(model, images)
    found = {name: tuple(axis for axis in shape if axis) for name, shape in shapes.items()}
    return {name: lengths for name, lengths in found.items() if len(lengths) == len(shapes[name])}


def reshaped(wiring: Wiring, node: onnx.NodeProto, source: Traced) -> tuple[int, ...] | None:
    """The lengths that a Reshape makes of what is traced; None where they are not constant, or do not come out.

    Args:
        wiring: of the graph.
        node: the Reshape.
        source: what it reads.
    """
    wanted = wiring.constant(node.input[1])
    if wanted is None or not wanted.size or (attribute(node, "allowzero", 0) and not wanted.all()):
        return None
    kept = zip(wanted.tolist(), (*source.lengths, *[0] * wanted.size), strict=False)
    made = [length if number == _KEEP else int(number) for number, length in kept]
    total = math.prod(source.lengths)
    if _REST in made:
        others = math.prod(length for length in made if length != _REST)
        made[made.index(_REST)] = total // others if others else 0
    return tuple(made) if math.prod(made) == total and min(made) > 0 else None


def freed_shape(
    wanted: NDArray[Any] | Sequence[int], made: Sequence[int], source: Traced, batch: int
) -> tuple[int, ...] | None:
    """What a Reshape must say for any number of images; None where it does, or where nothing is known to be right.

    The order of numbers in memory leaves few axes that images can be on. One of the graph's own number of images is
    theirs; else they are not on the last, which is what a layer reads, and rather begin an axis than end one.

    Args:
        wanted: what it says.
        made: the lengths that come of it.
        source: what it reads.
        batch: how many images the graph was exported for.
    """
    fits, before = [], 1
    for axis, length in enumerate(made):
        outer, rest = divmod(source.before, before)
        if not rest and outer and length % (outer * batch) == 0:
            own = length == batch and outer == 1
            fits.append((not own, axis == len(made) - 1, outer != 1, axis))
        before *= length
    if not fits:
        return None
    axis = min(fits)[-1]
    if wanted[axis] == _REST or (wanted[axis] == _KEEP and axis == source.axis):
        return None
    kept = axis == source.axis and made[axis] == source.lengths[axis]
    return (*made[:axis], _KEEP if kept else _REST, *made[axis + 1 :])
