"""In which types a graph's kernels compute and write: shares of operators, and of the activations' numbers."""

from __future__ import annotations

import math
from collections import Counter
from typing import Final

from onnx import TensorProto

from edgeq.lint.graph import PAIR, LintGraph
from edgeq.plan.rules import FUSED_ACTIVATIONS
from edgeq.quantize.fp16.fp16_simulation import inside_kernels

__all__ = ["KINDS", "computed_shares", "written_numbers", "written_shares"]

KINDS: Final[dict[int, str]] = {
    TensorProto.INT8: "INT8",
    TensorProto.UINT8: "UINT8",
    TensorProto.FLOAT8E4M3FN: "FP8",
    TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.FLOAT: "FP32",
    TensorProto.DOUBLE: "FP64",
}
"""Types of activations; others hold indices, conditions and shapes."""

_FLOATS: Final = ("FP16", "BF16", "FP32", "FP64")


def written_numbers(graph: LintGraph) -> dict[str, tuple[str, int]]:
    """Each tensor that a kernel writes for one image: its type, and how many numbers it has.

    Integers behind a QuantizeLinear count, and floating-point tensors that something else than a QuantizeLinear reads
    and that lie in no INT8 kernel. Weights, and what follows from constants, do not.
    """
    inside = inside_kernels(graph.model)
    found: dict[str, tuple[str, int]] = {}
    for node in graph.nodes:
        for name in node.output:
            kind = KINDS.get(graph.types.get(name, 0))
            users = graph.readers.get(name, ())
            read = name in graph.outputs or any(user.op_type != PAIR[0] for user in users)
            if kind and name in graph.computed and name not in inside and (read or node.op_type == PAIR[0]):
                found[name] = (kind, math.prod(graph.shapes.get(name, ())))
    return found


def written_shares(graph: LintGraph) -> dict[str, float]:
    """Percent, by type, of the numbers that kernels write."""
    counts: Counter[str] = Counter()
    for kind, count in written_numbers(graph).values():
        counts[kind] += count
    return _percent(counts)


def computed_shares(graph: LintGraph) -> dict[str, float]:
    """Percent of the operators on floating-point numbers by type: INT8 where they read pairs, or are fused there."""
    integers: set[str] = set()
    counts: Counter[str] = Counter()
    for node in graph.nodes:
        kinds = [KINDS.get(graph.types.get(name, 0)) for name in node.output if name in graph.computed]
        if node.op_type in (*PAIR, "Cast") or not any(kind in _FLOATS for kind in kinds):
            continue
        paired = any(map(graph.is_paired, node.input))
        paired = paired or (node.op_type in FUSED_ACTIVATIONS and node.input[0] in integers)
        integers.update(node.output if paired else ())
        counts["INT8" if paired else str(kinds[0])] += 1
    return _percent(counts)


def _percent(counts: Counter[str]) -> dict[str, float]:
    whole = sum(counts.values())
    return {kind: 100.0 * counts[kind] / whole for kind in KINDS.values() if counts[kind]} if whole else {}
