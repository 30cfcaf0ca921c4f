"""Put floating point in the place of INT8 graphs that are not worth having.

ONNX Runtime then runs `model.fp32.onnx`, for which its CPU has kernels. A device gets `model.fp16.onnx`, the same graph
with every layer in FP16 but those that would overflow, or that nobody knows. Where TensorRT's INT8 graph stays, it gets
both, and builds both.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
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
from edgeq.quantize.fp16.prove import prove_judged_fp16
from edgeq.quantize.int8.registry import LOWERINGS
from edgeq.quantize.int8.stage import FP16, FP16_PLAN, PLAN
from edgeq.quantize.int8.tensorrt import LOWERING as TENSORRT
from edgeq.tensorrt.bundled_cache import CALIBRATION_CACHE
from edgeq.tensorrt.inputs import ENGINE_INPUTS, FP16_INPUTS

__all__ = ["drop_half", "keep_float"]


def keep_float(
    directory: Path,
    plan: PrecisionPlan,
    images: NDArray[np.float32],
    *,
    because: str,
    keep: Collection[str] = (),
    threads: int | None = None,
) -> PrecisionPlan:
    """Replace what `quantize` and `write_classifier_inputs` left in `directory` by an FP16 graph, and give its plan.

    Args:
        directory: with `model.fp32.onnx`; its INT8 graphs are removed, and its calibration cache with TensorRT's.
        plan: that of the INT8 graphs; its settings and allowances are taken over.
        images: real ones, float32 [n, 3, H, W], at least one: overflow is looked for on them, and parity proved. Lists
            of what was found are to be judged by the caller.
        because: why floating point is kept, in a sentence.
        keep: files of INT8 graphs that stay; the plan of these stays then, and that of the FP16 graph is a file beside
            it.
        threads: of one operator.

    Raises:
        ParityError: the FP16 graph computes NaN, infinity, or answers too far from those of FP32; it is not written.
        QuantizeError: the graph made differs from its plan.
    """
    model = load_onnx(directory / FP32)
    (name,) = (value.name for value in model.graph.input)
    runs = [{name: image} for image in np.split(images, len(images))]
    floating = _plan(model, runs, because, threads)
    made = plan.model_copy(update={"rules": floating.rules, "decisions": floating.decisions})
    half = to_fp16(model, made)
    drop_graphs(directory, keep)
    prove_judged_fp16(directory / FP32, half, runs, threads=threads)
    save_onnx(half, directory / FP16)
    plan_file = FP16_PLAN if keep else PLAN
    made.save(directory / plan_file)
    beside = TENSORRT.file in keep
    write_float_inputs(directory, made, plan_file=plan_file, name=FP16_INPUTS if beside else ENGINE_INPUTS)
    return made


def drop_graphs(directory: Path, keep: Collection[str]) -> None:
    """Remove the INT8 graphs that do not stay, and the calibration cache with TensorRT's."""
    dropped = [lowering.file for lowering in LOWERINGS if lowering.file not in keep]
    for name in (*dropped, *([CALIBRATION_CACHE] if TENSORRT.file in dropped else [])):
        for path in (directory / name, directory / f"{name}.data"):
            path.unlink(missing_ok=True)


def drop_half(directory: Path) -> None:
    """Remove the FP16 graph that `keep_float` put beside INT8 graphs."""
    for name in (FP16, f"{FP16}.data", FP16_PLAN, FP16_INPUTS):
        (directory / name).unlink(missing_ok=True)


def _plan(model: onnx.ModelProto, runs: Sequence[Feeds], because: str, threads: int | None) -> PrecisionPlan:
    """FP16, and before that a rule for each layer that it would break."""
    found = overflow_rules(model, runs, plan_float(model, because=because), threads=threads)
    return plan_float(model, because=because, rules=found)
