"""What would TensorRT make of an ONNX file?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeq.lint.registry import choose_rules
from edgeq.lint.report import LintReport
from edgeq.lint.run import lint_file
from edgeq.plan.precision import PrecisionPlan

__all__ = ["lint_model"]


def lint_model(
    *files: str | Path,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    plan: PrecisionPlan | None = None,
) -> LintReport:
    """Read ONNX files against NVIDIA's published rules of Q/DQ placement and of types. No TensorRT is needed.

    Args:
        files: ONNX files of any maker, quantized or not. Of weights only their ranges are looked at, piece by piece.
        select: numbers of rules, beginnings of numbers or names; none are all.
        ignore: of rules to leave out.
        plan: that the graphs should follow, where there is one.

    Raises:
        InputError: there is no rule of a name.
        ModelError: a file cannot be read, or is not whole.
        LimitError: it has too many nodes or tensors, or loops that never end.
    """
    rules = choose_rules(select, ignore)
    return LintReport(files=tuple(lint_file(Path(file), rules, plan) for file in files))
