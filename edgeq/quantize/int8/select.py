"""`auto`: try every method and keep what least disturbs the network's output on images held back.

A challenger that does not lead on the first quarter of those images is not run over the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.calibrate.observe import open_observed
from edgeq.calibrate.samples import Array
from edgeq.calibrate.scales import Scales, Trial
from edgeq.calibrate.thresholds import METHODS
from edgeq.engine import Engine
from edgeq.engine.heap import trim_heap
from edgeq.engine.onnxruntime import OnnxRuntimeEngine, side_by_side
from edgeq.model.graph.external_data import read_in
from edgeq.model.graph.outline import load_outline
from edgeq.model.images.preprocess import Preprocess
from edgeq.plan.precision import PrecisionPlan
from edgeq.quantize.int8.pixels import PixelInput, pixel_input
from edgeq.quantize.int8.qdq import StoredWeights, lower, many_lowerings, placement_of, scales_to_give, take_scales
from edgeq.quantize.int8.registry import USUAL
from edgeq.quantize.int8.tensorrt import LOWERING as TENSORRT

__all__ = ["resolve", "select", "trials"]

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
    preprocess: Preprocess | None,
    held_back: Sequence[Array],
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
        preprocess: from an image to the graph's input; None where that is no image.
        held_back: samples [1, ...] that `scales` has not seen: float32 pixels, or int64 token ids.
        shared_add: None tries both, with the method that won.
        threads: of one operator.
        advance: called with 1 after each trial.
    """
    _, each = side_by_side(threads)
    trim_heap()
    with many_lowerings(), ThreadPoolExecutor(1) as running:
        answering = running.submit(_logits, _Network(open_observed(graph, threads=each)), held_back, threads)
        model = load_outline(graph)
        read_in(model, graph)  # `onnx.load` would hold the file's bytes and the model at once
        reference = answering.result()  # its session goes before graphs are made
        trials = _Trials(held_back, reference, threads, advance, running)
        tryable = _Tryable(model, plan, scales, threads)
        unsigned = trials.best_method(_Unsigned(tryable, pixel_input(preprocess)), bool(shared_add), shared_add is None)
        lowering = _Signed(tryable, bool(shared_add))
        del model, tryable  # TensorRT's graph in floating point needs their room
        # There one side of an addition is never stored: there is nothing to share.
        signed = trials.best_method(lowering, bool(shared_add), False)
    return scales.model_copy(
        update={
            "chosen": {USUAL.name: unsigned.choice.method, TENSORRT.name: signed.choice.method},
            "shared_add": unsigned.choice.shared_add,
            "held_back": len(held_back),
            "trials": tuple(tried.trial(reference) for tried in trials.tried),
        }
    )


@dataclass(frozen=True)
class _Network:
    """A graph that is ready to run.

    Attributes:
        given: what it is given beside the sample.
    """

    engine: Engine
    given: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    def __call__(self, sample: Array) -> NDArray[np.float32]:
        """The logits of one sample."""
        engine = self.engine
        logits: NDArray[np.float32] = engine.run({engine.inputs[0]: sample, **self.given})[engine.outputs[0]]
        return logits


_Made = Callable[[], _Network]
"""A graph that is opened where it is run: while one is, the next is made."""


@dataclass(frozen=True)
class _Tryable:
    """What choices are made of; `stored` holds the weights that they share."""

    model: onnx.ModelProto
    plan: PrecisionPlan
    scales: Scales
    threads: int | None
    stored: StoredWeights = field(default_factory=dict)


class _Unsigned:
    """ONNX Runtime's graph: the biases too depend on the scales, so each choice is lowered again."""

    lowering = USUAL

    def __init__(self, tried: _Tryable, pixels: PixelInput | None) -> None:
        self._tried, self._pixels = tried, pixels

    def made(self, choice: _Choice) -> _Made:
        tried = self._tried
        plan = tried.plan.model_copy(update={"shared_add": choice.shared_add})
        scales = tried.scales.model_copy(update={"method": choice.method})
        lowered = lower(tried.model, plan, scales, self.lowering, pixels=self._pixels, stored=tried.stored)
        return partial(_opened, lowered.SerializeToString(), tried.threads)


class _Signed:
    """TensorRT's graph, made and opened once and given each choice's scales."""

    lowering = TENSORRT

    def __init__(self, tried: _Tryable, shared_add: bool) -> None:
        plan = tried.plan.model_copy(update={"shared_add": shared_add})
        self._scales, self._threads = tried.scales, tried.threads
        self._placement = placement_of(tried.model, plan, self.lowering)
        lowered = lower(tried.model, plan, tried.scales, self.lowering, stored=tried.stored)
        take_scales(lowered, self._placement)
        self._serialized: bytes = lowered.SerializeToString()

    @cached_property
    def _engine(self) -> Engine:
        trim_heap()  # of the graphs before it: this one, in floating point, is the largest
        return _open(self._serialized, self._threads, integers=False)

    def made(self, choice: _Choice) -> _Made:
        scales = self._scales.model_copy(update={"method": choice.method})
        return partial(_Network, self._engine, scales_to_give(self._placement, scales))


@dataclass
class _Trials:
    """What choices are judged by, and those tried so far.

    Attributes:
        running: has one worker, so that one graph runs at a time, while the next is made.
    """

    samples: Sequence[Array]
    reference: NDArray[np.float64]
    threads: int | None
    advance: Callable[[int], None] | None
    running: Executor
    tried: list[_Tried] = field(default_factory=list)

    def best_method(self, lowering: _Unsigned | _Signed, shared_add: bool, either: bool) -> _Tried:
        """Try every method; one takes the place of the one before it only with a margin.

        Args:
            either: try the winner with the other kind of addition, too.
        """
        first, *others = (_Choice(lowering.lowering.name, method, shared_add) for method in _ORDER)
        best: _Tried | None = None
        tried = self._begin(lowering.made(first), first, best)
        for choice in others:
            made = lowering.made(choice)  # while the one before it runs
            best = _better(best, self._noted(tried))
            tried = self._begin(made, choice, best)
        best = _better(best, self._noted(tried))
        if either:
            choice = replace(best.choice, shared_add=not shared_add)
            other = self._noted(self._begin(lowering.made(choice), choice, best))
            best = other if other.beats(best, by=0.0) else best
        return best

    def _begin(self, made: _Made, choice: _Choice, leader: _Tried | None) -> Future[_Tried]:
        return self.running.submit(self._run, made, choice, leader)

    def _noted(self, trial: Future[_Tried]) -> _Tried:
        self.tried.append(trial.result())
        if self.advance:
            self.advance(1)
        return self.tried[-1]

    def _run(self, made: _Made, choice: _Choice, leader: _Tried | None) -> _Tried:
        """Run a choice over the first quarter of the images, and over the rest if it leads or has nobody to beat."""
        network, quarter = made(), -(-len(self.samples) // 4)
        logits = _logits(network, self.samples[:quarter], self.threads)
        squares = _squares(logits, self.reference[:quarter])
        if leader is None or _error(squares) < _error(leader.squares[:quarter]):
            logits = np.concatenate([logits, _logits(network, self.samples[quarter:], self.threads)])
            squares = _squares(logits, self.reference)
        return _Tried(choice, logits, squares)


@dataclass(frozen=True)
class _Choice:
    backend: str
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


def _better(best: _Tried | None, challenger: _Tried) -> _Tried:
    """The challenger where it leads with the margin, or where there is nobody to beat."""
    return challenger if best is None or challenger.beats(best, by=_MARGIN) else best


def _squares(logits: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    squares: NDArray[np.float64] = np.square(logits - reference).sum(axis=1)
    return squares


def resolve(plan: PrecisionPlan, scales: Scales) -> PrecisionPlan:
    """`plan` with what `auto` found about residual additions, and with what was corrected of weights and biases."""
    corrections = scales.corrections.values()
    settled = {
        "shared_add": plan.shared_add if scales.shared_add is None else scales.shared_add,
        "weight_rounding": "adaround" if any(each.rounding for each in corrections) else "nearest",
        "bias_correction": any(each.biases for each in corrections),
    }
    changed = {name: value for name, value in settled.items() if getattr(plan, name) != value}
    return plan.model_copy(update=changed) if changed else plan


def _opened(model: bytes, threads: int | None) -> _Network:
    return _Network(_open(model, threads))


def _open(model: bytes, threads: int | None, *, integers: bool = True) -> OnnxRuntimeEngine:
    _, each = side_by_side(threads)
    return OnnxRuntimeEngine(model, threads=each, integers=integers, memory_pattern=False)


def _logits(network: _Network, samples: Sequence[Array], threads: int | None) -> NDArray[np.float64]:
    """Each sample by itself, two at once: memory stays that of two, whatever their size."""
    together, _ = side_by_side(threads)
    with ThreadPoolExecutor(together) as pool:
        return np.concatenate(list(pool.map(network, samples))).astype(np.float64)
