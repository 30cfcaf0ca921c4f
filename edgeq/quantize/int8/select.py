"""`auto`: try every method and keep what least disturbs the network's output on images held back.

Numbers of different scales, such as a detector's boxes in pixels and its scores in 0..1, are fields with an error each,
and the worst field counts: boxes would drown scores otherwise.

A challenger that does not lead on the first quarter of those images, by half of the margin that it needs in the end, is
not run over the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

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
from edgeq.engine.outputs import comparable
from edgeq.model.graph.external_data import read_in
from edgeq.model.graph.outline import load_outline
from edgeq.model.images.preprocess import Preprocess
from edgeq.plan.precision import PrecisionPlan
from edgeq.plan.rules import float_additions
from edgeq.quantize.int8.pixels import PixelInput, pixel_input
from edgeq.quantize.int8.qdq import StoredWeights, lower, many_lowerings, placement_of, scales_to_give, take_scales
from edgeq.quantize.int8.registry import USUAL
from edgeq.quantize.int8.tensorrt import LOWERING as TENSORRT
from edgeq.quantize.search.layer_search import KEPT_BECAUSE, keep_layers

__all__ = ["resolve", "select", "trials"]

Fields = Callable[[Mapping[str, NDArray[np.float32]]], Sequence[NDArray[np.float32]]]
"""What a network's outputs hold, by the outputs' names: a tensor for each field, the one that says most at the end."""


def _every_output(outputs: Mapping[str, NDArray[Any]]) -> tuple[NDArray[Any], ...]:
    """Each output as a field of its own, the first one, which is the answer, at the end."""
    answer, *others = comparable(list(outputs.values()))
    return (*others, answer)


_MOST_NUMBERS = 1 << 26
"""Of what the network gives for all images held back; of larger outputs fewer images are judged by."""

_FEWEST = 8

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
    fields: Fields | None = None,
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
        fields: of the outputs; None takes each output as one.
        threads: of one operator.
        advance: called with 1 after each trial.
    """
    trim_heap()
    with many_lowerings(), ThreadPoolExecutor(1) as running:
        answering = running.submit(_answer_as_fp32, graph, held_back, fields, threads)
        model = load_outline(graph)
        read_in(model, graph)  # `onnx.load` would hold the file's bytes and the model at once
        trials = _Trials(answering, threads, advance, running)
        tryable = _Tryable(model, plan, scales, threads, fields or _every_output)
        graphs = _Unsigned(tryable, pixel_input(preprocess))
        unsigned = trials.best_method(graphs, bool(shared_add))
        other = trials.begin_other_addition(graphs, unsigned) if shared_add is None else None
        graph_of_signed = _Signed(tryable, bool(shared_add))  # while that runs
        del model, tryable, graphs  # TensorRT's graph in floating point needs their room
        if other is not None:
            unsigned = trials.better_addition(unsigned, other)
        # There one side of an addition is never stored: there is nothing to share.
        signed = trials.best_method(graph_of_signed, bool(shared_add))
        held_back, _ = answering.result()
    return scales.model_copy(
        update={
            "chosen": {USUAL.name: unsigned.choice.method, TENSORRT.name: signed.choice.method},
            "shared_add": unsigned.choice.shared_add,
            "held_back": len(held_back),
            "trials": tuple(tried.trial() for tried in trials.tried),
        }
    )


@dataclass(frozen=True)
class _Network:
    """A graph that is ready to run.

    Attributes:
        fields: of its outputs.
        given: what it is given beside the sample.
    """

    engine: Engine
    fields: Fields
    given: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    def __call__(self, sample: Array) -> tuple[NDArray[np.float32], ...]:
        """The fields of one sample."""
        return tuple(self.fields(self.engine.run({self.engine.inputs[0]: sample, **self.given})))


_Made = Callable[[], _Network]
"""A graph that is opened where it is run: while one is, the next is made."""


@dataclass(frozen=True)
class _Tryable:
    """What choices are made of; `stored` holds the weights that they share."""

    model: onnx.ModelProto
    plan: PrecisionPlan
    scales: Scales
    threads: int | None
    fields: Fields
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
        return partial(_opened, lowered.SerializeToString(), tried.threads, tried.fields)


class _Signed:
    """TensorRT's graph, made and opened once and given each choice's scales."""

    lowering = TENSORRT

    def __init__(self, tried: _Tryable, shared_add: bool) -> None:
        plan = tried.plan.model_copy(update={"shared_add": shared_add})
        self._scales, self._threads, self._fields = tried.scales, tried.threads, tried.fields
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
        return partial(_Network, self._engine, self._fields, scales_to_give(self._placement, scales))


@dataclass
class _Trials:
    """What choices are judged by, and those tried so far.

    Attributes:
        judged: samples, and what FP32 gives for each.
        running: has one worker, so that one graph runs at a time, while the next is made; `judged` is made by it.
    """

    judged: Future[_Judged]
    threads: int | None
    advance: Callable[[int], None] | None
    running: Executor
    tried: list[_Tried] = field(default_factory=list)

    def best_method(self, lowering: _Unsigned | _Signed, shared_add: bool) -> _Tried:
        """Try every method; one takes the place of the one before it only with a margin."""
        first, *others = (_Choice(lowering.lowering.name, method, shared_add) for method in _ORDER)
        best: _Tried | None = None
        tried = self._begin(lowering.made(first), first, best)
        for choice in others:
            made = lowering.made(choice)  # while the one before it runs
            best = _better(best, self._noted(tried))
            tried = self._begin(made, choice, best)
        return _better(best, self._noted(tried))

    def begin_other_addition(self, lowering: _Unsigned, best: _Tried) -> Future[_Tried]:
        """Try the winner with the other kind of addition."""
        choice = replace(best.choice, shared_add=not best.choice.shared_add)
        return self._begin(lowering.made(choice), choice, best, margin=0.0)

    def better_addition(self, best: _Tried, other: Future[_Tried]) -> _Tried:
        """The winner, or the same method with the other kind of addition."""
        tried = self._noted(other)
        return tried if tried.beats(best, by=0.0) else best

    def _begin(self, made: _Made, choice: _Choice, leader: _Tried | None, margin: float = _MARGIN) -> Future[_Tried]:
        return self.running.submit(self._run, made, choice, leader, margin)

    def _noted(self, trial: Future[_Tried]) -> _Tried:
        self.tried.append(trial.result())
        if self.advance:
            self.advance(1)
        return self.tried[-1]

    def _run(self, made: _Made, choice: _Choice, leader: _Tried | None, margin: float) -> _Tried:
        """Run a choice over the first quarter of the images, and over the rest if it leads or has nobody to beat."""
        samples, _ = self.judged.result()
        network, quarter = made(), -(-len(samples) // 4)
        tried = self._compared(choice, network, slice(0, quarter))
        if leader is None or tried.error < (1.0 - margin / 2) * leader.first(quarter).error:
            return tried.joined(self._compared(choice, network, slice(quarter, None)))
        return tried

    def _compared(self, choice: _Choice, network: _Network, images: slice) -> _Tried:
        samples, reference = self.judged.result()
        pairs = list(zip(_answers(network, samples[images], self.threads), reference[images], strict=True))
        fields = len(reference[0])
        changes = np.array([_changes(given, wanted) for given, wanted in pairs]).reshape(-1, fields)
        sizes = np.array([_changes(wanted, None) for _, wanted in pairs]).reshape(-1, fields)
        same = np.array([given[-1].argmax() == wanted[-1].argmax() for given, wanted in pairs], np.bool_)
        return _Tried(choice, changes, sizes, same)


@dataclass(frozen=True)
class _Choice:
    backend: str
    method: str
    shared_add: bool


_Answer = tuple[NDArray[np.float32], ...]
"""What a network gave for one image: a tensor for each field."""

_Judged = tuple[Sequence[Array], Sequence[_Answer]]
"""Samples that choices are judged by, and what FP32 gives for each."""


@dataclass(frozen=True)
class _Tried:
    """A choice and what it does to the fields, float64 [n, fields], n short of all images where it left early.

    Attributes:
        changes: per image, the squared distance to the reference's field.
        sizes: per image, the squared length of that.
        same: per image, whether the largest number of the last field stands where the reference has it.
    """

    choice: _Choice
    changes: NDArray[np.float64]
    sizes: NDArray[np.float64]
    same: NDArray[np.bool_]

    @property
    def error(self) -> float:
        """||INT8 - FP32|| / ||FP32|| of the worst field."""
        sizes = np.maximum(self.sizes.sum(axis=0), np.finfo(np.float64).tiny)
        return math.sqrt(float((self.changes.sum(axis=0) / sizes).max()))

    def first(self, count: int) -> _Tried:
        """On the first images alone."""
        return replace(self, changes=self.changes[:count], sizes=self.sizes[:count], same=self.same[:count])

    def joined(self, rest: _Tried) -> _Tried:
        """With further images."""
        return _Tried(
            self.choice,
            np.concatenate([self.changes, rest.changes]),
            np.concatenate([self.sizes, rest.sizes]),
            np.concatenate([self.same, rest.same]),
        )

    def beats(self, other: _Tried, *, by: float) -> bool:
        """Whether its error is smaller by this part on all images."""
        return len(self.changes) == len(other.changes) and self.error < (1.0 - by) * other.error

    def trial(self) -> Trial:
        """What is told of it."""
        return Trial(
            **asdict(self.choice),
            images=len(self.changes),
            logit_error=self.error,
            agreement=100.0 * float(np.mean(self.same)),
        )


def _better(best: _Tried | None, challenger: _Tried) -> _Tried:
    """The challenger where it leads with the margin, or where there is nobody to beat."""
    return challenger if best is None or challenger.beats(best, by=_MARGIN) else best


def _changes(given: _Answer, wanted: _Answer | None) -> list[float]:
    """The squared distance of each field to what is wanted; its squared length where that is None."""
    if wanted is None:
        return [float(np.square(field, dtype=np.float64).sum()) for field in given]
    return [_square(field, other) for field, other in zip(given, wanted, strict=True)]


def _square(field: NDArray[Any], wanted: NDArray[Any]) -> float:
    """The squared distance of two tensors; the smaller one is filled up with zeros, as a list of what was found is."""
    one, other = (values.reshape(-1).astype(np.float64) for values in (field, wanted))
    shorter = min(len(one), len(other))
    rest = one[shorter:] if len(one) > shorter else other[shorter:]
    return float(np.square(one[:shorter] - other[:shorter]).sum() + np.square(rest).sum())


def _answer_as_fp32(graph: Path, samples: Sequence[Array], fields: Fields | None, threads: int | None) -> _Judged:
    """The samples that choices are judged by, and what the FP32 file gives for each."""
    _, each = side_by_side(threads)
    network = _Network(open_observed(graph, threads=each), fields or _every_output)
    judged = samples if fields is None else _affordable(network, samples)
    return judged, _answers(network, judged, threads)


def _affordable(network: _Network, samples: Sequence[Array]) -> Sequence[Array]:
    """As many of the samples as have answers that can be kept, eight at least."""
    numbers = sum(field.size for field in network(samples[0]))
    return samples[: max(_MOST_NUMBERS // numbers, _FEWEST)]


def resolve(plan: PrecisionPlan, scales: Scales, graph: Path) -> PrecisionPlan:
    """`plan` with what was found about residual additions, and with what was corrected of weights and biases.

    Args:
        plan: for the graph.
        scales: for the graph.
        graph: the FP32 file.
    """
    if scales.float_adds:
        plan = float_additions(load_outline(graph), plan)
    if scales.float_layers:
        plan = keep_layers(load_outline(graph), plan, tuple(scales.float_layers), because=KEPT_BECAUSE)
    corrections = scales.corrections.values()
    settled = {
        "shared_add": plan.shared_add if scales.shared_add is None else scales.shared_add,
        "weight_rounding": "adaround" if any(each.rounding for each in corrections) else "nearest",
        "bias_correction": any(each.biases for each in corrections),
    }
    changed = {name: value for name, value in settled.items() if getattr(plan, name) != value}
    return plan.model_copy(update=changed) if changed else plan


def _opened(model: bytes, threads: int | None, fields: Fields) -> _Network:
    return _Network(_open(model, threads), fields)


def _open(model: bytes, threads: int | None, *, integers: bool = True) -> OnnxRuntimeEngine:
    _, each = side_by_side(threads)
    return OnnxRuntimeEngine(model, threads=each, integers=integers, memory_pattern=False)


def _answers(network: _Network, samples: Sequence[Array], threads: int | None) -> list[_Answer]:
    """Each sample by itself, two at once: memory stays that of two, whatever their size."""
    together, _ = side_by_side(threads)
    with ThreadPoolExecutor(together) as pool:
        return list(pool.map(network, samples))
