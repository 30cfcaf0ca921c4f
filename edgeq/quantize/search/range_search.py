"""Search each activation's range by what it does to the network's output.

PTQ4ViT (arXiv:2111.12293, section 3.3) chooses scales by a second-order estimate of the change of the loss, weighted
with squared gradients. Here there is no gradient and no estimate: the layers that read a tensor are quantized with each
candidate range, everything else stays FP32, and the error of the logits themselves is measured, by running the piece of
the graph that changes and what is behind it. What it leaves out is what the estimate leaves out too: how the errors
of several tensors act together. So the whole INT8 network is asked at the end, on images that were not searched on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.calibrate.samples import Array
from edgeq.calibrate.scales import Scales, TensorRange, Trial
from edgeq.engine.onnxruntime import OnnxRuntimeEngine, default_threads
from edgeq.engine.registry import DEFAULT
from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.plan.rules import WEIGHTED, added_in_float
from edgeq.quality.logits import Answers, judge_answers
from edgeq.quantize.int8.base import Lowering
from edgeq.quantize.int8.pixels import PixelInput
from edgeq.quantize.int8.qdq import lower, many_lowerings, placement_of
from edgeq.quantize.int8.registry import USUAL
from edgeq.quantize.search.sweep import Runner, Track, together
from edgeq.quantize.search.variants import Variant, Workbench

__all__ = [
    "FLOAT_ADDITIONS",
    "PARTS",
    "SEARCHED",
    "answers_one_by_one",
    "clipped",
    "search_ranges",
    "trial_of",
    "try_graph",
]

Errors = NDArray[np.float64]

FLOAT_ADDITIONS: Final = "float-additions"
"""Behind a method's name in a trial whose plan has residual additions in floating point."""

SEARCHED: Final = "searched"
"""The name that ranges found here go by, beside those of the methods."""

PARTS: Final = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
"""The ranges that are tried, as parts of the largest magnitude seen."""

_SIGMAS: Final = 2.5
"""So many standard errors better than the present range a candidate must be: of eight that are no better, one in
twenty times one would be (one-sided, 0.05 / 8)."""


@dataclass(frozen=True)
class _Question:
    """Tensors on one grid, a range for them, and the layers that read them.

    Attributes:
        key: unlike every other question's.
        tensors: their names.
        part: of the largest magnitude; None for the range that there is.
        variant: the FP32 graph with those layers in INT8.
    """

    key: str
    tensors: frozenset[str]
    part: float | None
    variant: Variant


def clipped(minimum: float, maximum: float, part: float) -> TensorRange:
    """The values between `minimum` and `maximum` whose magnitude is at most `part` of the largest one's.

    Args:
        minimum, maximum: of the values that were counted.
        part: 0 to 1; of the larger of the two magnitudes.
    """
    largest = part * max(-minimum, maximum, 0.0)
    return TensorRange(amax=largest, low=max(min(minimum, 0.0), -largest), high=min(max(maximum, 0.0), largest))


def search_ranges(
    model: onnx.ModelProto,
    plan: PrecisionPlan,
    scales: Scales,
    samples: Sequence[Array],
    unseen: Sequence[Array],
    *,
    pixels: PixelInput | None = None,
    threads: int | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Scales:
    """`scales` with a range searched for each tensor that an INT8 layer with weights reads, for ONNX Runtime.

    They are in force (`chosen`) only where they make the whole INT8 network's error smaller on `unseen`; the comparison
    is among the trials either way.

    Args:
        model: FP32, folded, with the node names of `plan`.
        plan, scales: for that graph.
        samples: those that are searched on, each [1, ...], 2 and more.
        unseen: others, that `scales` has not seen either.
        pixels: as in `lower`.
        threads: processors.
        advance: called with the number of samples that a candidate has seen.
    """
    with many_lowerings():
        found = _search(model, plan, scales, samples, pixels, threads or default_threads(), advance)
        return _accept(model, plan, scales, found, unseen, pixels, threads)


def _search(
    model: onnx.ModelProto,
    plan: PrecisionPlan,
    scales: Scales,
    samples: Sequence[Array],
    pixels: PixelInput | None,
    threads: int,
    advance: Callable[[int], None],
) -> Scales:
    bench = Workbench(model, plan, scales, pixels)
    questions = {question.key: question for question in _questions(model, plan, bench)}

    def make(variant: Variant) -> onnx.ModelProto:
        question = questions[variant.layer]
        return bench.make(variant, ranges=_ranges(scales, question))

    variants = tuple(question.variant for question in questions.values())
    with Runner(threads) as runner:
        track = Track(bench.whole, bench.cuts, variants, make, runner)
        reference, logits = track.sweep(together(samples), dict.fromkeys(questions, len(samples)), advance)
    errors = {key: judge_answers(reference, made, None).error for key, made in logits.items()}
    return _with_best(scales, questions, errors)


def _questions(model: onnx.ModelProto, plan: PrecisionPlan, bench: Workbench) -> Iterator[_Question]:
    """Every candidate of every set of tensors on one grid, in the graph's order."""
    placement = placement_of(model, plan, USUAL)
    weighted = {d.layer for d in plan.decisions if d.precision is Precision.INT8 and d.op in WEIGHTED}
    together = {name: members for members in placement.same_grid for name in members}
    seen: set[str] = set()
    for name in placement.tensors:
        members = together.get(name, frozenset({name})) & set(placement.tensors)
        readers = weighted & {layer for member in members for layer in placement.uses[member]}
        if name in seen or not readers:
            continue
        seen |= members
        variant = bench.together(readers)
        for part in (None, *PARTS):
            key = f"{name} {part}"
            yield _Question(key, members, part, replace(variant, layer=key))


def _ranges(scales: Scales, question: _Question) -> Mapping[str, TensorRange]:
    """The ranges that a question asks about; none where it is about those that there are."""
    if question.part is None:
        return {}
    known = {name: scales.tensors[name] for name in question.tensors}
    return {name: clipped(scale.minimum, scale.maximum, question.part) for name, scale in known.items()}


def _with_best(scales: Scales, questions: Mapping[str, _Question], errors: Mapping[str, Errors]) -> Scales:
    """Scales with the best range of each tensor under the name SEARCHED, and the present one of all others."""
    method = scales.method_for(DEFAULT.name)
    best = {name: scale.ranges[method] for name, scale in scales.tensors.items()}
    asked: dict[frozenset[str], list[_Question]] = {}
    for question in questions.values():
        asked.setdefault(question.tensors, []).append(question)
    for present, *others in asked.values():
        winner = min(others, key=lambda question: float(errors[question.key].sum()))
        if _is_better(errors[winner.key], errors[present.key]):
            best |= _ranges(scales, winner)
    tensors = {
        name: scale.model_copy(update={"ranges": {**scale.ranges, SEARCHED: best[name]}})
        for name, scale in scales.tensors.items()
    }
    return scales.model_copy(update={"tensors": tensors, "chosen": {**scales.chosen, DEFAULT.name: SEARCHED}})


def _is_better(candidate: Errors, present: Errors) -> bool:
    """Whether a candidate's squared errors, float64 [n], are smaller by more than chance, sample by sample."""
    gains = present - candidate
    return bool(gains.mean() > _SIGMAS * gains.std(ddof=1) / np.sqrt(len(gains)))


def _accept(
    model: onnx.ModelProto,
    plan: PrecisionPlan,
    scales: Scales,
    found: Scales,
    samples: Sequence[Array],
    pixels: PixelInput | None,
    threads: int | None,
) -> Scales:
    """The scales whose whole INT8 network is nearer to FP32, with both compared among the trials."""
    reference = answers_one_by_one(model, samples, threads)
    tried = [
        judge_answers(
            reference, answers_one_by_one(lower(model, plan, each, USUAL, pixels=pixels), samples, threads), None
        )
        for each in (scales, found)
    ]
    before, after = (answers.error.sum() for answers in tried)
    trials = [trial_of(each, plan, answers, DEFAULT.name) for each, answers in zip((scales, found), tried, strict=True)]
    chosen = found.chosen if after < before else {**scales.chosen, DEFAULT.name: scales.method_for(DEFAULT.name)}
    return found.model_copy(update={"chosen": chosen, "trials": (*scales.trials, *trials)})


def trial_of(scales: Scales, plan: PrecisionPlan, answers: Answers, backend: str) -> Trial:
    """What is told of a graph by its answers beside FP32's.

    Args:
        scales, plan: that it was made from.
        answers: FP32's and its own.
        backend: that it was made for.
    """
    figures = answers.figures()
    method = scales.method_for(backend)
    return Trial(
        backend=backend,
        method=f"{method} {FLOAT_ADDITIONS}" if added_in_float(plan) else method,
        shared_add=plan.shared_add,
        images=figures.images,
        logit_error=figures.logit_error,
        agreement=figures.agreement,
    )


def try_graph(
    model: onnx.ModelProto,
    plan: PrecisionPlan,
    scales: Scales,
    lowering: Lowering,
    reference: NDArray[np.float32],
    samples: Sequence[Array],
    pixels: PixelInput | None,
    threads: int | None,
) -> Trial:
    """Make the INT8 graph of a backend and hold its answers against FP32's.

    Args:
        model: FP32, folded, with the node names of `plan`.
        plan, scales: for that graph.
        lowering: of the backend.
        reference: FP32's answers, float32 [n, numbers].
        samples: that they are answers to, each [1, ...].
        pixels: as in `lower`.
        threads: of one operator.
    """
    int8 = lower(model, plan, scales, lowering, pixels=pixels)
    answers = answers_one_by_one(int8, samples, threads, integers=lowering.integer_bias)
    return trial_of(scales, plan, judge_answers(reference, answers, None), lowering.ranges_of)


def answers_one_by_one(
    model: onnx.ModelProto, samples: Sequence[Array], threads: int | None, *, integers: bool = True
) -> NDArray[np.float32]:
    """Logits of each sample, run by itself: float32 [n, classes].

    Args:
        model: with one output.
        samples: [1, ...] each.
        threads: of one operator.
        integers: as in `OnnxRuntimeEngine`.
    """
    engine = OnnxRuntimeEngine(model.SerializeToString(), threads=threads, integers=integers, memory_pattern=False)
    source, output = engine.inputs[0], engine.outputs[0]
    return np.concatenate([engine.run({source: sample})[output] for sample in samples])
