"""`auto`: try every method and keep what least disturbs the network's output on images held back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.calibrate.scales import Scales, Trial
from edgeq.calibrate.thresholds import METHODS
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.model.preprocess import Preprocess
from edgeq.plan.precision import Backend, PrecisionPlan
from edgeq.quantize.pixels import Pixels
from edgeq.quantize.qdq import lower

__all__ = ["select", "settle", "trials"]

_MARGIN = 0.03
"""A method takes the place of the one before it only if its error is smaller by this part: less is chance."""

_ORDER = ("mse", *(method for method in METHODS if method != "mse"))


def trials(shared_add: bool | None) -> int:
    """How many choices are tried: every method for each backend, and the other kind of addition where that is open."""
    return 2 * len(_ORDER) + (shared_add is None)


def select(
    graph: Path,
    plan: PrecisionPlan,
    scales: Scales,
    preprocess: Preprocess,
    held_back: NDArray[np.float32],
    *,
    shared_add: bool | None = None,
    threads: int | None = None,
    advance: Callable[[int], None] | None = None,
) -> Scales:
    """`scales` with a method chosen for each backend, and the trials behind it.

    TensorRT's graph is tried in ONNX Runtime, which computes the same Q/DQ arithmetic in floating point.

    Args:
        graph: the FP32 file.
        plan: for that graph.
        scales: with every method's ranges.
        preprocess: from an image to the graph's input.
        held_back: float32 [n, 3, H, W], images that `scales` has not seen.
        shared_add: None tries both, with the method that won.
        threads: of one operator.
        advance: called with 1 after each trial.
    """
    model, pixels = onnx.load(graph), Pixels.of(preprocess)
    reference = _logits(graph, held_back, threads)

    def attempt(backend: Backend, method: str, shared: bool) -> Trial:
        planned = plan.model_copy(update={"shared_add": shared})
        ranges = scales.model_copy(update={"method": method})
        made = lower(model, planned, ranges, backend, pixels=pixels).SerializeToString()
        if advance:
            advance(1)
        return _trial(backend, method, shared, reference, _logits(made, held_back, threads))

    shared = bool(shared_add)
    unsigned = [attempt("onnxruntime", method, shared) for method in _ORDER]
    best = _best(unsigned)
    if shared_add is None:
        unsigned.append(attempt("onnxruntime", best.method, True))
        best = min(best, unsigned[-1], key=_error)
    # In TensorRT's graph one side of an addition is never stored: there is nothing to share.
    signed = [attempt("tensorrt", method, shared) for method in _ORDER]
    return scales.model_copy(
        update={
            "chosen": {"onnxruntime": best.method, "tensorrt": _best(signed).method},
            "shared_add": best.shared_add,
            "held_back": len(held_back),
            "trials": (*unsigned, *signed),
        }
    )


def _error(trial: Trial) -> float:
    return trial.logit_error


def _best(tried: Sequence[Trial]) -> Trial:
    best = tried[0]
    for trial in tried[1:]:
        if trial.logit_error < (1.0 - _MARGIN) * best.logit_error:
            best = trial
    return best


def settle(plan: PrecisionPlan, scales: Scales) -> PrecisionPlan:
    """`plan` with what `auto` found about residual additions."""
    return plan if scales.shared_add is None else plan.model_copy(update={"shared_add": scales.shared_add})


def _logits(model: Path | bytes, images: NDArray[np.float32], threads: int | None) -> NDArray[np.float64]:
    engine = OnnxRuntimeEngine(model, threads=threads)
    source, output = engine.inputs[0], engine.outputs[0]
    # One image at a time: memory stays that of one, whatever its size.
    parts = [engine.run({source: images[i : i + 1]})[output] for i in range(len(images))]
    return np.concatenate(parts).astype(np.float64)


def _trial(
    backend: Backend, method: str, shared: bool, reference: NDArray[np.float64], found: NDArray[np.float64]
) -> Trial:
    length = max(float(np.linalg.norm(reference)), float(np.finfo(np.float64).tiny))
    return Trial(
        backend=backend,
        method=method,
        shared_add=shared,
        logit_error=float(np.linalg.norm(found - reference)) / length,
        agreement=100.0 * float(np.mean(found.argmax(axis=1) == reference.argmax(axis=1))),
    )
