"""TRT3: in which types does it compute, in a strongly typed network: as the graph says, and nothing is converted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from onnx import TensorProto

from edgeq.lint.base import GUIDE, WHOLE, Rule
from edgeq.lint.graph import PAIR, LintGraph
from edgeq.lint.shares import written_numbers
from edgeq.model.graph.element_types import fp16_outputs
from edgeq.model.graph.wiring import operator
from edgeq.plan.precision import Precision

__all__ = ["TYPE_RULES"]

_STRONG: Final = f"{GUIDE}, Strongly Typed Networks"
_MOST_FP32: Final = 0.5
_SHOWN: Final = 3
_FLOATS: Final = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16})
_OWN_TYPES: Final = ("Cast", "Range", "Resize", "Where")
"""Operators whose inputs may be of several types by their definition."""


def _wide(graph: LintGraph) -> Iterator[tuple[str, str]]:
    """Only where types were chosen: a graph that is all FP32 is waiting for that."""
    if not graph.has_half and not graph.has_pairs:
        return
    numbers = written_numbers(graph)
    whole = sum(count for _, count in numbers.values())
    wide: Counter[str] = Counter()
    for name, (kind, count) in numbers.items():
        if kind == "FP32":
            wide[graph.makers[name].op_type] += count
    if wide.total() > _MOST_FP32 * whole:
        most = ", ".join(f"{name} {100 * count / whole:.0f} %" for name, count in wide.most_common(_SHOWN) if count)
        yield WHOLE, f"{100 * wide.total() / whole:.0f} % of the activations' numbers are written in FP32: {most}"


def _mixed(graph: LintGraph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes:
        floats = {graph.types.get(name, 0) for name in (*node.input, *node.output) if name} & _FLOATS
        if len(floats) > 1 and operator(node) not in (*_OWN_TYPES, *PAIR):
            yield node.name, f"{node.op_type} reads and writes FP16 and FP32"


def _pieces(graph: LintGraph) -> Iterator[tuple[str, frozenset[int]]]:
    """Of each normalization in pieces: the name of its square, and the element types that its pieces write."""
    for nodes in graph.norm_pieces:
        square = next((node for node in nodes if node.op_type in ("Mul", "Pow")), nodes[0])
        yield square.name, frozenset(graph.types.get(name, 0) for node in nodes for name in node.output)


def _in_pieces(graph: LintGraph) -> Iterator[tuple[str, str]]:
    for where, types in _pieces(graph):
        if TensorProto.FLOAT16 in types:
            yield where, "squares for a normalization in pieces, in FP16"
        elif not graph.has_half:
            yield where, "squares for a normalization in pieces; built in FP16 they overflow"


def _pieces_in_fp32(graph: LintGraph) -> Iterator[tuple[str, str]]:
    for where, types in _pieces(graph):
        if graph.has_half and TensorProto.FLOAT16 not in types:
            yield where, "a normalization in pieces, which are FP32"


def _planned(graph: LintGraph) -> Iterator[tuple[str, str]]:
    half = graph.plan.layers(Precision.FP16) if graph.plan is not None else frozenset()
    for node in graph.nodes:
        if node.name in half:
            written = [name for name, may in zip(node.output, fp16_outputs(node, graph.opset), strict=True) if may]
            if any(graph.types.get(name) == TensorProto.FLOAT for name in written):
                yield node.name, f"{node.op_type} writes FP32, and the plan has it in FP16"


TYPE_RULES: Final = (
    Rule("TRT301", "mostly-fp32", "warning", "put in FP16 what has no INT8 kernel", _STRONG, _wide),
    Rule(
        "TRT302",
        "mixed-types",
        "error",
        "put Casts between: a strongly typed network converts nothing",
        _STRONG,
        _mixed,
    ),
    Rule(
        "TRT303",
        "norm-in-pieces",
        "warning",
        "export LayerNormalization (opset 17), or keep the pieces in FP32",
        f"{GUIDE}, Reduced Precision: layer normalization",
        _in_pieces,
    ),
    Rule("TRT304", "fp32-norm-pieces", "note", "one operator would be quicker", _STRONG, _pieces_in_fp32),
    Rule("TRT305", "unplanned-type", "error", "make the graph from its plan again", "the plan", _planned),
)
