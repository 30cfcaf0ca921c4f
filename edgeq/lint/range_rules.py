"""TRT4: what FP16 does not hold, as far as weights, constants and scales tell; what images reach is not known here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto

from edgeq.lint.base import GUIDE, Rule
from edgeq.lint.graph import PAIR, LintGraph
from edgeq.model.graph.element_types import LARGEST, MOST_LOST, fp16_inputs

__all__ = ["RANGE_RULES"]

_REDUCED: Final = f"{GUIDE}, Reduced Precision"
_FLOAT: Final = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE})
_STEPS: Final = 127


def _read_in_floating_point(graph: LintGraph) -> Iterator[str]:
    """The constants that a layer reads in a slot that FP16 may have; scales of pairs and what pairs store are none."""
    for name, tensor in graph.constants.items():
        readers = [node for node in graph.readers.get(name, ()) if node.op_type not in PAIR]
        slots = (may for node in readers for slot, may in _slots(graph, node) if slot == name)
        if tensor.data_type in (*_FLOAT, TensorProto.FLOAT16) and any(slots):
            yield name


def _slots(graph: LintGraph, node: onnx.NodeProto) -> Iterator[tuple[str, bool]]:
    return zip(node.input, fp16_inputs(node, graph.opset), strict=True)


def _overflows(graph: LintGraph) -> Iterator[tuple[str, str]]:
    for name in _read_in_floating_point(graph):
        if _may_be_half(graph, name):
            peak = graph.stored_range(name).peak
            if peak > LARGEST:
                yield name, f"holds {peak:.6g}, and FP16 ends at {LARGEST:.0f}"


def _may_be_half(graph: LintGraph, name: str) -> bool:
    """FP32 beside FP16 is FP32 on purpose; in a graph of FP32 alone a builder may choose FP16."""
    return not graph.has_half and graph.constants[name].data_type in _FLOAT


def _infinite(graph: LintGraph) -> Iterator[tuple[str, str]]:
    for name in _read_in_floating_point(graph):
        if graph.stored_range(name).infinite:
            yield name, "holds infinity: as a mask it is right, where it does not mask a whole row"


def _vanishes(graph: LintGraph) -> Iterator[tuple[str, str]]:
    for name in _read_in_floating_point(graph):
        if _may_be_half(graph, name):
            found = graph.stored_range(name)
            if found.lost > MOST_LOST:
                yield name, f"holds numbers up to {found.peak:.3g}, most of which vanish in FP16"


def _reach(graph: LintGraph) -> dict[str, float]:
    """The tensors whose largest magnitude a scale tells: before a pair and behind it."""
    found: dict[str, float] = {}
    for node in graph.pairs():
        scale = graph.values(node.input[1]) if len(node.input) > 1 else None
        if scale is not None and scale.size and not graph.is_fixed(node.input[0]):
            largest = _STEPS * float(np.max(scale.astype(np.float64)))
            found[node.input[0]] = found[node.output[0]] = largest
    return found


def _pair_beyond(graph: LintGraph) -> Iterator[tuple[str, str]]:
    for name, largest in _reach(graph).items():
        half = graph.types.get(name) == TensorProto.FLOAT16
        if largest > LARGEST and (half or not graph.has_half) and graph.maker(name, PAIR[0]) is None:
            yield name, f"reaches {largest:.4g} by its scale, and FP16 ends at {LARGEST:.0f}"


def _squares_beyond(graph: LintGraph) -> Iterator[tuple[str, str]]:
    reach = _reach(graph)
    for node in (node for nodes in graph.norm_pieces for node in nodes):
        if node.op_type not in ("Mul", "Pow") or not node.input or node.input[0] not in reach:
            continue
        squared = reach[node.input[0]] ** 2
        half = graph.types.get(node.output[0]) == TensorProto.FLOAT16
        if squared > LARGEST and (half or not graph.has_half):
            yield node.name, f"squares what reaches {reach[node.input[0]]:.4g} by its scale"


RANGE_RULES: Final = (
    Rule("TRT401", "constant-overflows", "warning", "keep what reads it in FP32", _REDUCED, _overflows),
    Rule("TRT402", "constant-vanishes", "warning", "keep what reads it in FP32", _REDUCED, _vanishes),
    Rule("TRT403", "infinite-constant", "note", "look at what reads it", _REDUCED, _infinite),
    Rule("TRT404", "range-overflows", "warning", "keep what reads and writes it in FP32", _REDUCED, _pair_beyond),
    Rule("TRT405", "square-overflows", "warning", "keep the square in FP32", _REDUCED, _squares_beyond),
)
