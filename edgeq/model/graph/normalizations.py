"""Normalization that a graph has in pieces: a mean, a difference, its square, a root and a division, node by node.

Exporters of opsets before 17 write a LayerNorm so, in many orders. What is one is recognised whole, and its parts are
named; what merely divides by a root of squares (RMSNorm, a norm by hand) is found by that alone. The square is what
FP16 does not hold: 256 squared is beyond 65504.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgeq.model.graph.tensors import constant_tensors

if TYPE_CHECKING:
    import onnx

__all__ = ["LayerNormInPieces", "layer_norms_in_pieces", "norm_pieces"]

_STANDARD: Final = ("", "ai.onnx")
_BETWEEN: Final = frozenset({"Add", "Cast", "Div", "Identity", "Mul", "ReduceMean", "ReduceSum", "Sub"})
"""What may stand between a square and the root of it: a mean, an epsilon, a factor, a change of type."""

_SAME: Final = ("Cast", "Identity")

_FLOATS: Final = (1, 10, 11, 16)
"""FLOAT, FLOAT16, DOUBLE and BFLOAT16 of a TensorProto."""


@dataclass(frozen=True)
class LayerNormInPieces:
    """A LayerNorm over a tensor's last axes, and its parts.

    Attributes:
        nodes: of the graph, by their places, in order; casts between them as well.
        source: the tensor that is normalized; before casts, where the parts have a cast each.
        result: the tensor that the last part writes.
        axes: how many of the last ones the mean is over.
        epsilon: that is added to the variance.
        scale, bias: constants behind it; empty where it has none.
    """

    nodes: tuple[int, ...]
    source: str
    result: str
    axes: int
    epsilon: float
    scale: str
    bias: str


def layer_norms_in_pieces(
    model: onnx.ModelProto, shapes: Mapping[str, tuple[int | None, ...]], types: Mapping[str, int]
) -> tuple[LayerNormInPieces, ...]:
    """Each LayerNorm of the main graph that is written out, in the graph's order.

    Args:
        model: its nodes in topological order; of constants numbers are looked at where they are one number or axes.
        shapes: of tensors, as inference finds them; None is an axis of no known size. Constants need not be in it.
        types: likewise, their element types.
    """
    graph = _Graph(model, shapes, types)
    found = (graph.layer_norm(place) for place in range(len(graph.nodes)))
    return tuple(norm for norm in found if norm is not None)


def norm_pieces(model: onnx.ModelProto) -> tuple[frozenset[int], ...]:
    """Of each division by a root of squares the nodes, by their places: the square, the root, what is between, and what
    divides. Normalization that is one operator has none."""
    graph = _Graph(model, {}, {})
    return tuple(pieces for place in range(len(graph.nodes)) if (pieces := graph.root_of_squares(place)))


class _Graph:
    def __init__(
        self, model: onnx.ModelProto, shapes: Mapping[str, tuple[int | None, ...]], types: Mapping[str, int]
    ) -> None:
        self.nodes = list(model.graph.node)
        self.types = types
        self.constants = constant_tensors(model.graph)
        self.shapes = {**shapes, **{name: tuple(tensor.dims) for name, tensor in self.constants.items()}}
        self.makers = {name: place for place, node in enumerate(self.nodes) for name in node.output if name}
        self.outputs = {value.name for value in model.graph.output}
        self.readers: dict[str, list[int]] = {}
        for place, node in enumerate(self.nodes):
            for name in node.input:
                self.readers.setdefault(name, []).append(place)

    def made_by(self, tensor: str, *operators: str) -> int | None:
        """The node that makes a tensor, casts aside, where it is one of these."""
        place = self.makers.get(self.bare(tensor))
        if place is None or self.nodes[place].domain not in _STANDARD or self.nodes[place].op_type not in operators:
            return None
        return place

    def bare(self, tensor: str) -> str:
        """What a tensor was before casts, none of them from integers."""
        place = self.makers.get(tensor)
        while place is not None and self.nodes[place].op_type in _SAME:
            before = self.nodes[place].input[0]
            if self.nodes[place].op_type == "Cast" and self._kind(before) not in _FLOATS:
                break
            tensor, place = before, self.makers.get(before)
        return tensor

    def _kind(self, tensor: str) -> int:
        held = self.constants.get(tensor)
        return self.types.get(tensor, 0) if held is None else held.data_type

    def number(self, tensor: str) -> float | None:
        """The one number that a constant holds; None for anything else."""
        from onnx import numpy_helper

        name = self.bare(tensor)
        proto = self.constants.get(name)
        if proto is None or any(size != 1 for size in proto.dims) or proto.external_data:
            return None
        try:
            return float(numpy_helper.to_array(proto).reshape(-1)[0])
        except (TypeError, ValueError, IndexError):  # text, or cut short
            return None

    def operands(self, place: int) -> Iterator[tuple[str, str]]:
        """Both orders of what a node of two inputs reads."""
        first, second = self.nodes[place].input[:2]
        yield first, second
        yield second, first

    # -- a LayerNorm, from its division backwards

    def layer_norm(self, place: int) -> LayerNormInPieces | None:
        """The LayerNorm whose division, or product with one over the root, is this node."""
        divided = self._divided(place)
        if divided is None:
            return None
        centred, variance = divided
        difference, summed = self.made_by(centred, "Sub"), self.made_by(variance, "Add")
        if difference is None or summed is None:
            return None
        source, mean = self.nodes[difference].input
        axes = self._mean_axes(mean, source)
        epsilon, squares = self._with_number(summed)
        averaged = self.made_by(squares, "ReduceMean")
        if axes is None or epsilon is None or averaged is None:
            return None
        if self._axes(averaged) != self._axes(self.makers[self.bare(mean)]):
            return None
        squared = self.square(self.nodes[averaged].input[0])
        if squared is None or not self._same_difference(squared, centred):
            return None
        averaged_source = self.nodes[self.makers[self.bare(mean)]].input[0]
        return self._with_affine(place, source if source == averaged_source else self.bare(source), axes, epsilon)

    def _divided(self, place: int) -> tuple[str, str] | None:
        """What is divided, and the tensor of whose root by."""
        node = self.nodes[place]
        if node.domain not in _STANDARD or len(node.input) != 2:
            return None
        if node.op_type == "Div":
            root = self._root(node.input[1])
            return (node.input[0], root) if root else None
        if node.op_type == "Mul":
            for other, factor in self.operands(place):
                root = self._one_over_root(factor)
                if root:
                    return other, root
        return None

    def _root(self, tensor: str) -> str:
        place = self.made_by(tensor, "Sqrt", "Pow")
        if place is None:
            return ""
        node = self.nodes[place]
        return node.input[0] if node.op_type == "Sqrt" or self.number(node.input[1]) == 0.5 else ""

    def _one_over_root(self, tensor: str) -> str:
        place = self.made_by(tensor, "Reciprocal", "Div", "Pow")
        if place is None:
            return ""
        node = self.nodes[place]
        if node.op_type == "Reciprocal":
            return self._root(node.input[0])
        if node.op_type == "Pow":
            return node.input[0] if self.number(node.input[1]) == -0.5 else ""
        return self._root(node.input[1]) if self.number(node.input[0]) == 1.0 else ""

    def _with_number(self, place: int) -> tuple[float | None, str]:
        for number, other in self.operands(place):
            held = self.number(number)
            if held is not None:
                return held, other
        return None, ""

    def _mean_axes(self, mean: str, source: str) -> int | None:
        """How many of the last axes a tensor is the mean over, kept as ones; None where it is no such mean."""
        place = self.made_by(mean, "ReduceMean")
        if place is None or self.bare(self.nodes[place].input[0]) != self.bare(source) or not self._keeps_axes(place):
            return None
        axes, rank = self._axes(place), len(self.shapes.get(self.bare(source), ()))
        if not axes or (not rank and max(axes) >= 0):
            return None
        last = sorted(axis - rank if axis >= 0 else axis for axis in axes)
        return len(last) if last == [*range(-len(last), 0)] else None

    def _keeps_axes(self, place: int) -> bool:
        return all(each.i == 1 for each in self.nodes[place].attribute if each.name == "keepdims")

    def _axes(self, place: int) -> tuple[int, ...]:
        """Of a ReduceMean, an attribute or since opset 18 an input; none are all, or not known."""
        from onnx import numpy_helper

        node = self.nodes[place]
        given = next((tuple(each.ints) for each in node.attribute if each.name == "axes"), ())
        if given or len(node.input) < 2:
            return given
        held = self.constants.get(node.input[1])
        if held is None or held.external_data:
            return ()
        try:
            return tuple(int(axis) for axis in numpy_helper.to_array(held).reshape(-1))
        except (TypeError, ValueError):  # text, or cut short
            return ()

    def square(self, tensor: str) -> str | None:
        """What a tensor is the square of, number by number; None where it is none."""
        place = self.made_by(tensor, "Pow", "Mul")
        if place is None or len(self.nodes[place].input) != 2:
            return None
        first, second = self.nodes[place].input
        if self.nodes[place].op_type == "Pow":
            return first if self.number(second) == 2.0 else None
        return first if self.bare(first) == self.bare(second) else None

    def _same_difference(self, one: str, other: str) -> bool:
        """Whether two tensors are the same, or each a difference from the same mean: exporters write it twice."""
        if self.bare(one) == self.bare(other):
            return True
        first, second = self.made_by(one, "Sub"), self.made_by(other, "Sub")
        if first is None or second is None:
            return False
        (left, mean), (right, again) = self.nodes[first].input, self.nodes[second].input
        return (
            self.bare(left) == self.bare(right)
            and self._mean_axes(mean, left) is not None
            and self._mean_axes(mean, left) == self._mean_axes(again, right)
        )

    # -- what is behind it

    def _with_affine(self, place: int, source: str, axes: int, epsilon: float) -> LayerNormInPieces:
        scale, scaled = self._constant_behind(place, "Mul", source, axes)
        bias, last = self._constant_behind(scaled, "Add", source, axes)
        result = self.nodes[last].output[0]
        return LayerNormInPieces(self._parts(last, source), source, result, axes, epsilon, scale, bias)

    def _constant_behind(self, place: int, operator: str, source: str, axes: int) -> tuple[str, int]:
        """The constant by which a node's only reader multiplies its result, or that it adds, and that reader."""
        result, end = self.nodes[place].output[0], place
        while True:
            users = self.readers.get(result, [])
            if len(users) != 1 or result in self.outputs:
                return "", place
            end = users[0]
            behind = self.nodes[end].output[0] if self.nodes[end].output else ""
            if self.nodes[end].op_type not in _SAME or self._kind(behind) != self._kind(result):
                break
            result = behind
        node = self.nodes[end]
        if node.op_type != operator or node.domain not in _STANDARD:
            return "", place
        other = node.input[1] if node.input[0] == result else node.input[0]
        constant = self.bare(other)
        return (constant, end) if constant in self.constants and self._fits(constant, source, axes) else ("", place)

    def _fits(self, constant: str, source: str, axes: int) -> bool:
        """Whether a constant has one number for each place of the axes that are normalized."""
        shape, known = self.shapes[constant], self.shapes.get(source, ())
        if len(shape) < axes or any(size != 1 for size in shape[: len(shape) - axes]):
            return False
        if len(shape) > axes and len(known) < len(shape):  # it would add an axis
            return False
        sizes = known[len(known) - axes :] if known else ()
        return not sizes or all(
            size is None or size == own for size, own in zip(sizes, shape[len(shape) - axes :], strict=True)
        )

    def _parts(self, last: int, source: str) -> tuple[int, ...]:
        """Every node between the source and the last part; constants are none."""
        found, waiting = {last}, [last]
        while waiting:
            for name in self.nodes[waiting.pop()].input:
                place = self.makers.get(name)
                if name == source or place is None or place in found or self.nodes[place].op_type == "Constant":
                    continue
                found.add(place)
                waiting.append(place)
        return tuple(sorted(found))

    # -- a root of squares, whatever is done with it

    def root_of_squares(self, place: int) -> frozenset[int]:
        """Where this node is the root of a mean or a sum of squares: the nodes from the square on."""
        node = self.nodes[place]
        root = node.op_type == "Sqrt" or (
            node.op_type == "Pow" and len(node.input) == 2 and self.number(node.input[1]) in (0.5, -0.5)
        )
        if not root or node.domain not in _STANDARD:
            return frozenset()
        ways = self._back_to_square(node.input[0], frozenset({place}))
        if not ways:
            return frozenset()
        return ways | self._ahead(place)

    def _back_to_square(self, tensor: str, way: frozenset[int], depth: int = 0) -> frozenset[int]:
        """The nodes from a tensor back to a square, with what was centred for it; empty where none is there."""
        place = self.makers.get(tensor)
        if place is None or depth > _DEEPEST:
            return frozenset()
        node = self.nodes[place]
        centred = self.square(tensor)
        if centred is not None and node.op_type not in _SAME:
            difference = self.made_by(centred, "Sub")
            return way | {place} | (frozenset() if difference is None else {difference})
        if node.op_type not in _BETWEEN or not node.input:
            return frozenset()
        found = [self._back_to_square(name, way | {place}, depth + 1) for name in node.input[:2]]
        return frozenset().union(*found)

    def _ahead(self, place: int) -> frozenset[int]:
        """What divides by a root, through one over it and casts."""
        found: set[int] = set()
        waiting = [place]
        while waiting:
            for reader in self.readers.get(self.nodes[waiting.pop()].output[0], []):
                operator = self.nodes[reader].op_type
                one_over = operator == "Div" and self.number(self.nodes[reader].input[0]) == 1.0
                if reader not in found and operator in ("Cast", "Div", "Identity", "Mul", "Reciprocal"):
                    found.add(reader)
                    if one_over or operator in ("Cast", "Identity", "Reciprocal"):
                        waiting.append(reader)
        return frozenset(found)


_DEEPEST: Final = 8
"""Steps from a root back to its square."""
