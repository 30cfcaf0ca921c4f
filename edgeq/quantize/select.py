"""`auto`: try every method and keep what least disturbs the network's output on images held back.

A challenger that does not lead on the first quarter of those images is not run over the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.calibrate.scales import Scales, Trial
from edgeq.calibrate.thresholds import METHODS
from edgeq.engine import Engine
from edgeq.engine.onnxruntime import OnnxRuntimeEngine, side_by_side
from edgeq.model.preprocess import Preprocess
from edgeq.plan.precision import Backend, PrecisionPlan
from edgeq.quantize.pixels import Pixels
from edgeq.quantize.qdq import lower, many_lowerings, placement_of, with_scales

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
    reference = _logits(_open(graph, threads), held_back, threads)  # its session goes before the model comes
    trials = _Trials(held_back, reference, threads, advance)
    with many_lowerings():
        model = onnx.load(graph)
        own = _Unsigned(model, plan, scales, Pixels.of(preprocess))
        unsigned = trials.best_method(own, bool(shared_add), shared_add is None)
        lowering = _Signed(model, plan.model_copy(update={"shared_add": bool(shared_add)}), scales)
        del model, own  # TensorRT's graph in floating point needs their room
        # There one side of an addition is never stored: there is nothing to share.
        signed = trials.best_method(lowering, bool(shared_add), False)
    return scales.model_copy(
        update={
            "chosen": {"onnxruntime": unsigned.choice.method, "tensorrt": signed.choice.method},
            "shared_add": unsigned.choice.shared_add,
            "held_back": len(held_back),
            "trials": tuple(tried.trial(reference) for tried in trials.tried),
        }
    )


class _Unsigned:
    """ONNX Runtime's graph: the biases too depend on the scales, so each choice is lowered anew."""

    backend: Backend = "onnxruntime"

    def __init__(self, model: onnx.ModelProto, plan: PrecisionPlan, scales: Scales, pixels: Pixels) -> None:
        self._model, self._plan, self._scales, self._pixels = model, plan, scales, pixels

    def lowered(self, choice: _Choice) -> bytes:
        plan = self._plan.model_copy(update={"shared_add": choice.shared_add})
        scales = self._scales.model_copy(update={"method": choice.method})
        return bytes(lower(self._model, plan, scales, self.backend, pixels=self._pixels).SerializeToString())


class _Signed:
    """TensorRT's graph, made once."""

    backend: Backend = "tensorrt"

    def __init__(self, model: onnx.ModelProto, plan: PrecisionPlan, scales: Scales) -> None:
        self._scales = scales
        self._placement = placement_of(model, plan, self.backend)
        self._lowered = lower(model, plan, scales, self.backend)

    def lowered(self, choice: _Choice) -> bytes:
        with_scales(self._lowered, self._placement, self._scales.model_copy(update={"method": choice.method}))
        return bytes(self._lowered.SerializeToString())


@dataclass
class _Trials:
    """What choices are judged by, and those tried so far."""

    images: NDArray[np.float32]
    reference: NDArray[np.float64]
    threads: int | None
    advance: Callable[[int], None] | None
    tried: list[_Tried] = field(default_factory=list)

    def best_method(self, lowering: _Unsigned | _Signed, shared_add: bool, either: bool) -> _Tried:
        """Try every method; one takes the place of the one before it only with a margin.

        Args:
            either: try the winner with the other kind of addition, too.
        """
        best = self._attempt(lowering, _Choice(lowering.backend, _ORDER[0], shared_add), None)
        for method in _ORDER[1:]:
            challenger = self._attempt(lowering, replace(best.choice, method=method), best)
            best = challenger if challenger.beats(best, by=_MARGIN) else best
        if either:
            other = self._attempt(lowering, replace(best.choice, shared_add=not shared_add), best)
            best = other if other.beats(best, by=0.0) else best
        return best

    def _attempt(self, lowering: _Unsigned | _Signed, choice: _Choice, leader: _Tried | None) -> _Tried:
        """Make the graph of a choice and run it."""
        engine = _open(lowering.lowered(choice), self.threads, integers=choice.backend == "onnxruntime")
        self.tried.append(_run(choice, engine, self.images, self.reference, leader, self.threads))
        if self.advance:
            self.advance(1)
        return self.tried[-1]


@dataclass(frozen=True)
class _Choice:
    backend: Backend
    method: str
    shared_add: bool


@dataclass(frozen=True)
class _Tried:
    """A choice with the logits it gave, float64 [n, classes], n short of all images where it left early.

    Attributes:
        squares: per image, the squared distance to the reference's logits.
    """

    choice: _Choice
    logits: NDArray[np.float64]
    squares: NDArray[np.float64]

    def beats(self, other: _Tried, *, by: float) -> bool:
        """Whether its error is smaller by this part on all images."""
        return len(self.squares) == len(other.squares) and _error(self.squares) < (1.0 - by) * _error(other.squares)

    def trial(self, reference: NDArray[np.float64]) -> Trial:
        """What is told of it."""
        expected = reference[: len(self.logits)]
        length = max(float(np.linalg.norm(expected)), float(np.finfo(np.float64).tiny))
        return Trial(
            **asdict(self.choice),
            images=len(self.logits),
            logit_error=_error(self.squares) / length,
            agreement=100.0 * float(np.mean(self.logits.argmax(axis=1) == expected.argmax(axis=1))),
        )


def _error(squares: NDArray[np.float64]) -> float:
    return math.sqrt(float(squares.sum()))


def _run(
    choice: _Choice,
    engine: Engine,
    images: NDArray[np.float32],
    reference: NDArray[np.float64],
    leader: _Tried | None,
    threads: int | None,
) -> _Tried:
    """Run a choice over the first quarter of the images, and over the rest if it leads there or has nobody to beat."""
    quarter = -(-len(images) // 4)
    logits = _logits(engine, images[:quarter], threads)
    squares = _squares(logits, reference[:quarter])
    if leader is None or _error(squares) < _error(leader.squares[:quarter]):
        logits = np.concatenate([logits, _logits(engine, images[quarter:], threads)])
        squares = _squares(logits, reference)
    return _Tried(choice, logits, squares)


def _squares(logits: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    squares: NDArray[np.float64] = np.square(logits - reference).sum(axis=1)
    return squares


def settle(plan: PrecisionPlan, scales: Scales) -> PrecisionPlan:
    """`plan` with what `auto` found about residual additions."""
    return plan if scales.shared_add is None else plan.model_copy(update={"shared_add": scales.shared_add})


def _open(model: Path | bytes, threads: int | None, *, integers: bool = True) -> OnnxRuntimeEngine:
    _, each = side_by_side(threads)
    return OnnxRuntimeEngine(model, threads=each, integers=integers, memory_pattern=False)


def _logits(engine: Engine, images: NDArray[np.float32], threads: int | None) -> NDArray[np.float64]:
    """Each image by itself, two at once: memory stays that of two, whatever their size."""
    source, output = engine.inputs[0], engine.outputs[0]
    together, _ = side_by_side(threads)

    def run(image: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = engine.run({source: image})[output]
        return logits

    with ThreadPoolExecutor(together) as pool:
        return np.concatenate(list(pool.map(run, np.split(images, len(images))))).astype(np.float64)
