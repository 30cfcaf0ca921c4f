"""Put floating point in the place of INT8 graphs that are not worth having.

ONNX Runtime then runs `model.fp32.onnx`, for which its CPU has kernels. A device gets `model.fp16.onnx`, the same graph
with every layer in FP16 but those that would overflow, or that nobody knows.
"""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.export.stage import FP32
from edgeq.model.graph.onnx_file import load_onnx, save_onnx
from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.plan.rules import plan_float
from edgeq.quality.token_parity import FP16_BOUND, Place, prove_tokens
from edgeq.quantize.engine_inputs import write_float_inputs
from edgeq.quantize.fp16.convert import to_fp16
from edgeq.quantize.fp16.fp16_simulation import simulate_fp16
from edgeq.quantize.fp16.vision import overflow_rules
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
    floating = _plan(model, images, because, threads)
    made = plan.model_copy(update={"rules": floating.rules, "decisions": floating.decisions})
    half = to_fp16(model, made)
    _prove(directory / FP32, half, images, threads)
    for name in (*(lowering.file for lowering in LOWERINGS), CALIBRATION_CACHE):
        for path in (directory / name, directory / f"{name}.data"):
            path.unlink(missing_ok=True)
    save_onnx(half, directory / FP16)
    made.save(directory / PLAN)
    write_float_inputs(directory, made)
    return made


def _plan(model: onnx.ModelProto, images: NDArray[np.float32], because: str, threads: int | None) -> PrecisionPlan:
    """FP16, and before that a rule for each layer that it would break."""
    half = {glob.escape(layer) for layer in plan_float(model, because=because).layers(Precision.FP16)}
    (name,) = (value.name for value in model.graph.input)
    found = overflow_rules(model, [{name: image} for image in np.split(images, len(images))], threads=threads)
    return plan_float(model, because=because, rules=tuple(rule for rule in found if rule.layer in half))


def _prove(reference: Path, half: onnx.ModelProto, images: NDArray[np.float32], threads: int | None) -> None:
    """The answers of FP32 against those of FP16 with every FP16 tensor rounded, one image at a time."""
    with tempfile.TemporaryDirectory() as folder:
        exact = Path(folder) / "rounded.onnx"
        save_onnx(simulate_fp16(half), exact)
        ours, theirs = OnnxRuntimeEngine(reference, threads=threads), OnnxRuntimeEngine(exact, threads=threads)
        prove_tokens(_pairs(ours, theirs, images), bound=FP16_BOUND, made="FP16")


def _pairs(
    reference: OnnxRuntimeEngine, candidate: OnnxRuntimeEngine, images: NDArray[np.float32]
) -> Iterator[tuple[Place, NDArray[np.float32], NDArray[np.float32]]]:
    for number, image in enumerate(np.split(images, len(images))):
        wanted, found = (engine.run({engine.inputs[0]: image})[engine.outputs[0]] for engine in (reference, candidate))
        yield (number, 0), wanted, found
