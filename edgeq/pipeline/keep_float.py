"""Put floating point in the place of INT8 graphs that are not worth having.

ONNX Runtime then runs `model.fp32.onnx`, for which its CPU has kernels. A device gets `model.fp16.onnx`, the same graph
with every layer in FP16 but those that would overflow, or that nobody knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.export.stage import FP32
from edgeq.model.graph.onnx_file import load_onnx, save_onnx
from edgeq.plan.precision import PrecisionPlan
from edgeq.plan.rules import plan_float
from edgeq.quantize.engine_inputs import write_float_inputs
from edgeq.quantize.fp16.convert import to_fp16
from edgeq.quantize.fp16.overflow import Feeds
from edgeq.quantize.fp16.overflow_rules import overflow_rules
from edgeq.quantize.fp16.prove import prove_fp16
from edgeq.quantize.int8.registry import LOWERINGS
from edgeq.quantize.int8.stage import FP16, PLAN
from edgeq.tensorrt.bundled_cache import CALIBRATION_CACHE

__all__ = ["keep_float"]


def keep_float(
    directory: Path, plan: PrecisionPlan, images: NDArray[np.float32], *, because: str, threads: int | None = None
) -> PrecisionPlan:
    """Replace what `quantize` and `write_classifier_inputs` left in `directory` by an FP16 graph, and give its plan.

    Args:
        directory: with `model.fp32.onnx`; its INT8 graphs and its calibration cache are removed.
        plan: that of the INT8 graphs; its settings and allowances are taken over.
        images: real ones, float32 [n, 3, H, W], at least one: overflow is looked for on them, and parity proved.
        because: why floating point is kept, in a sentence.
        threads: of one operator.

    Raises:
        ParityError: the FP16 graph computes NaN, infinity, or answers too far from those of FP32.
        QuantizeError: the graph made differs from its plan.
    """
    model = load_onnx(directory / FP32)
    (name,) = (value.name for value in model.graph.input)
    runs = [{name: image} for image in np.split(images, len(images))]
    floating = _plan(model, runs, because, threads)
    made = plan.model_copy(update={"rules": floating.rules, "decisions": floating.decisions})
    half = to_fp16(model, made)
    prove_fp16(directory / FP32, half, runs, threads=threads)
    for name in (*(lowering.file for lowering in LOWERINGS), CALIBRATION_CACHE):
        for path in (directory / name, directory / f"{name}.data"):
            path.unlink(missing_ok=True)
    save_onnx(half, directory / FP16)
    made.save(directory / PLAN)
    write_float_inputs(directory, made)
    return made


def _plan(model: onnx.ModelProto, runs: Sequence[Feeds], because: str, threads: int | None) -> PrecisionPlan:
    """FP16, and before that a rule for each layer that it would break."""
    found = overflow_rules(model, runs, plan_float(model, because=because), threads=threads)
    return plan_float(model, because=because, rules=found)
