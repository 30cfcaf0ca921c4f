"""A graph in FP16 beside its FP32 form: what would overflow stays FP32, and the rest is proved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from edgeq.model.graph.onnx_file import load_onnx, save_onnx
from edgeq.plan.precision import PrecisionPlan, Rule
from edgeq.quality.token_parity import TokenParity
from edgeq.quantize.fp16.convert import to_fp16
from edgeq.quantize.fp16.overflow import Feeds
from edgeq.quantize.fp16.overflow_rules import overflow_rules
from edgeq.quantize.fp16.prove import prove_fp16

__all__ = ["make_fp16"]


def make_fp16(
    graph: Path,
    made: Path,
    runs: Sequence[Feeds],
    plan_with: Callable[[tuple[Rule, ...]], PrecisionPlan],
    *,
    threads: int | None = None,
) -> tuple[PrecisionPlan, TokenParity]:
    """Write an FP16 graph.

    Args:
        graph: FP32 ONNX file, nodes uniquely named.
        made: the file that is written.
        runs: what the graph is given, one image or text at a time: overflow is looked for and parity proved on them.
        plan_with: the plan, with these rules before its own.
        threads: of one operator.

    Returns:
        The plan of what was written, and how far its output is from that of FP32.

    Raises:
        ParityError: the FP16 graph computes NaN, infinity, or answers too far from those of FP32.
        QuantizeError: the graph made differs from its plan.
    """
    model = load_onnx(graph)
    plan = plan_with(overflow_rules(model, runs, plan_with(()), threads=threads))
    half = to_fp16(model, plan)
    parity = prove_fp16(graph, half, runs, threads=threads)
    save_onnx(half, made)
    return plan, parity
