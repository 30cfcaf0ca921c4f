"""`auto`: try every method and keep what least disturbs the network's output on images held back.

Numbers of different scales, such as a detector's boxes in pixels and its scores in 0..1, are fields with an error each,
and the worst field counts: boxes would drown scores otherwise.

A challenger that does not lead on the first quarter of those images, by half of the margin that it needs in the end, is
not run over the rest. TensorRT's graph is run in floating point, which takes as long as FP32: there the leader is not
either, while nobody comes near it, unless its error is large. What that graph is worth, the gate finds on other images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.calibrate.observe import open_observed
from edgeq.calibrate.samples import Array
from edgeq.calibrate.scales import Scales, Trial
from edgeq.calibrate.thresholds import METHODS
from edgeq.engine.heap import trim_heap
from edgeq.engine.onnxruntime import side_by_side
from edgeq.engine.outputs import comparable
from edgeq.model.graph.external_data import read_in
from edgeq.model.graph.outline import load_outline
from edgeq.model.images.preprocess import Preprocess
from edgeq.plan.precision import PrecisionPlan
from edgeq.plan.rules import float_additions, keep_range
from edgeq.quantize.int8.pixels import pixel_input
from edgeq.quantize.int8.qdq import many_lowerings
from edgeq.quantize.int8.registry import USUAL
from edgeq.quantize.int8.tensorrt import LOWERING as TENSORRT
from edgeq.quantize.int8.trial_graphs import Choice, Fields, Network, SignedGraph, Tryable, UnsignedGraph
from edgeq.quantize.search.layer_search import KEPT_BECAUSE, keep_layers

__all__ = ["Judged", "answer_as_fp32", "resolve", "select", "trials"]


def _every_output(outputs: Mapping[str, NDArray[Any]]) -> tuple[NDArray[Any], ...]:
    """Each output as a field of its own, the first one, which is the answer, at the end."""
    answer, *others = comparable(list(outputs.values()))
    return (*others, answer)


_MOST_NUMBERS = 1 << 26
"""Of what the network gives for all images held back; of larger outputs fewer images are judged by."""

_FEWEST = 8

_MARGIN = 0.03
"""A method takes the place of the one before it only if its error is smaller by this part: less is chance."""

_FAR = 0.05
"""From this error on a method is run over all images: half of what weights and biases are corrected from."""

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
    judging: Future[Judged] | None = None,
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
        judging: `answer_as_fp32` of the same, where that has begun; None begins it here.
    """
    trim_heap()
    together, _ = side_by_side(threads)
    with (
        many_lowerings(),
        ThreadPoolExecutor(together) as samples,
        ThreadPoolExecutor(1) as opening,
        ThreadPoolExecutor(1) as ahead,
    ):
        judging = judging or ahead.submit(answer_as_fp32, graph, held_back, fields, threads)
        model = load_outline(graph)
        read_in(model, graph)  # `onnx.load` would hold the file's bytes and the model at once
        tryable = Tryable(model, plan, scales, threads, fields or _every_output, pixel_input(preprocess))
        first = Choice(USUAL.name, _ORDER[0], bool(shared_add))
        additions = (first.shared_add,) if shared_add is not None else (False, True)
        choices = [replace(first, method=method, shared_add=add) for add in additions for method in _ORDER]
        of_unsigned = UnsignedGraph(tryable, choices)  # while FP32 answers
        # There one side of an addition is never stored: there is nothing to share.
        of_signed = SignedGraph(tryable, shared_add=first.shared_add)
        del model, tryable  # what is opened needs their room
        trials = _Trials(judging.result(), samples, opening, advance)
        opened = ahead.submit(of_signed.open)  # while the other one runs
        unsigned = trials.best_method(of_unsigned, first, whole=True)
        if shared_add is None:
            unsigned = trials.better_addition(of_unsigned, unsigned)
        opened.result()
        signed = trials.best_method(of_signed, replace(first, backend=TENSORRT.name), whole=False)
    return scales.model_copy(
        update={
            "chosen": {USUAL.name: unsigned.choice.method, TENSORRT.name: signed.choice.method},
            "shared_add": unsigned.choice.shared_add,
            "held_back": len(trials.judged[0]),
            "trials": tuple(trial.result().told() for trial in trials.tried),
        }
    )


@dataclass
class _Trials:
    """What choices are judged by, and those tried so far.

    Attributes:
        judged: samples, and what FP32 gives for each.
        samples: runs one sample with each of its workers, of whatever trial: none waits for a trial to end.
        opening: has one worker, which opens what is not open yet.
        advance: called with 1 after each trial.
    """

    judged: Judged
    samples: Executor
    opening: Executor
    advance: Callable[[int], None] | None
    tried: list[_Trial] = field(default_factory=list)

    def best_method(self, graph: UnsignedGraph | SignedGraph, first: Choice, *, whole: bool) -> _Trial:
        """Try every method; one takes the place of the one before it only with a margin.

        Args:
            graph: of one backend.
            first: the first choice.
            whole: it is run over all images at once; else where another one leads, or where it is far from FP32.
        """
        others = [replace(first, method=method) for method in _ORDER if method != first.method]
        best, trial = None, self._begin(graph, first, whole=whole)
        for choice in others:
            following = self._begin(graph, choice)  # its first look, while the one before it runs
            best = self._better(best, self._noted(trial), _MARGIN)
            trial = following
        best = self._better(best, self._noted(trial), _MARGIN)
        if best.result().error > _FAR:
            self._finish(best)
        return best

    def better_addition(self, graph: UnsignedGraph, best: _Trial) -> _Trial:
        """The winner, or the same method with the other kind of addition."""
        other = self._begin(graph, replace(best.choice, shared_add=not best.choice.shared_add))
        return self._better(best, self._noted(other), 0.0)

    def _begin(self, graph: UnsignedGraph | SignedGraph, choice: Choice, *, whole: bool = False) -> _Trial:
        """Begin a trial over the first quarter of the images, or over all."""
        trial = _Trial(choice, self.opening.submit(graph.made(choice)))
        self._run(trial, len(self.judged[0]) if whole else -(-len(self.judged[0]) // 4))
        return trial

    def _finish(self, trial: _Trial) -> None:
        self._run(trial, len(self.judged[0]))

    def _run(self, trial: _Trial, count: int) -> None:
        """Run a trial over the first images, as far as it has not been."""
        some = slice(len(trial.begun), count)
        for sample, wanted in zip(*(each[some] for each in self.judged), strict=True):
            trial.begun.append(self.samples.submit(_compared, trial.network, sample, wanted))

    def _noted(self, trial: _Trial) -> _Trial:
        trial.result()
        self.tried.append(trial)
        if self.advance:
            self.advance(1)
        return trial

    def _better(self, best: _Trial | None, challenger: _Trial, margin: float) -> _Trial:
        """The challenger where it leads with the margin, or where there is nobody to beat.

        Where it does not lead on the images that it has seen, by half of the margin, the rest is not run.
        """
        if best is None:
            return challenger
        seen = challenger.result()
        if seen.error >= (1.0 - margin / 2) * best.result().first(len(seen.changes)).error:
            return best
        for trial in (best, challenger):
            self._finish(trial)
        return challenger if challenger.result().error < (1.0 - margin) * best.result().error else best


_Answer = tuple[NDArray[np.float32], ...]
"""What a network gave for one image: a tensor for each field."""

Judged = tuple[Sequence[Array], Sequence[_Answer]]
"""Samples that choices are judged by, and what FP32 gives for each."""

_Compared = tuple[list[float], list[float], bool]
"""Of one sample: for each field the squared distance to the reference's, the squared length of that, and whether the
largest number of the last field stands where the reference has it."""


@dataclass(frozen=True)
class _Trial:
    """A choice, its graph, and the samples that it is under way with."""

    choice: Choice
    network: Future[Network]
    begun: list[Future[_Compared]] = field(default_factory=list)

    def result(self) -> _Tried:
        """What came of the samples, once they have all been run."""
        changes, sizes, same = zip(*(each.result() for each in self.begun), strict=True)
        return _Tried(self.choice, np.array(changes), np.array(sizes), np.array(same, np.bool_))


@dataclass(frozen=True)
class _Tried:
    """A choice and what it does to the fields, float64 [n, fields], n short of all images where it left early.

    Attributes:
        changes: per image, the squared distance to the reference's field.
        sizes: per image, the squared length of that.
        same: per image, whether the largest number of the last field stands where the reference has it.
    """

    choice: Choice
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

    def told(self) -> Trial:
        """What is told of it."""
        return Trial(
            **asdict(self.choice),
            images=len(self.changes),
            logit_error=self.error,
            agreement=100.0 * float(np.mean(self.same)),
        )


def _compared(network: Future[Network], sample: Array, wanted: _Answer) -> _Compared:
    given = network.result()(sample)
    return _changes(given, wanted), _changes(wanted, None), bool(given[-1].argmax() == wanted[-1].argmax())


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


def answer_as_fp32(graph: Path, held_back: Sequence[Array], fields: Fields | None, threads: int | None) -> Judged:
    """The samples that choices are judged by, and what the FP32 file gives for each.

    Args:
        graph, held_back, fields, threads: as for `select`; there may be none held back.
    """
    if not held_back:
        return held_back, []
    together, each = side_by_side(threads)
    network = Network(open_observed(graph, threads=each), fields or _every_output)
    judged = held_back if fields is None else _affordable(network, held_back)
    with ThreadPoolExecutor(together) as running:
        return judged, list(running.map(network, judged))


def _affordable(network: Network, samples: Sequence[Array]) -> Sequence[Array]:
    """As many of the samples as have answers that can be kept, eight at least."""
    numbers = sum(field.size for field in network(samples[0]))
    return samples[: max(_MOST_NUMBERS // numbers, _FEWEST)]


def resolve(plan: PrecisionPlan, scales: Scales, graph: Path) -> PrecisionPlan:
    """`plan` with what was found about residual additions, numbers beyond FP16, and corrected weights and biases.

    Args:
        plan: for the graph.
        scales: for the graph.
        graph: the FP32 file.
    """
    if scales.float_adds:
        plan = float_additions(load_outline(graph), plan)
    if scales.float_layers:
        plan = keep_layers(load_outline(graph), plan, tuple(scales.float_layers), because=KEPT_BECAUSE)
    if scales.beyond_fp16:
        plan = keep_range(load_outline(graph), plan, scales.beyond_fp16)
    corrections = scales.corrections.values()
    settled = {
        "shared_add": plan.shared_add if scales.shared_add is None else scales.shared_add,
        "weight_rounding": "adaround" if any(each.rounding for each in corrections) else "nearest",
        "bias_correction": any(each.biases for each in corrections),
    }
    changed = {name: value for name, value in settled.items() if getattr(plan, name) != value}
    return plan.model_copy(update=changed) if changed else plan
