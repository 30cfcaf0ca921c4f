"""Bring channels to like ranges before they are quantized, without changing what the network computes.

A per-tensor grid has one step for all channels, and behind a LayerNorm some are tens of times as wide as others. Before
a transformer's linear layers the ways are SmoothQuant's (`edgeq.quantize.equalize.smoothquant`), RepQ-ViT's
(`edgeq.quantize.equalize.repq`), and RepQ-ViT's first and then SmoothQuant's; between convolutions it is cross-layer
equalization (`edgeq.quantize.equalize.cross_layer`). `auto` tries them, and none, by the error of the INT8 network's
output on samples held back: those of transformers where there is a normalization, the other where some channel between
convolutions is far from the rest.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import numpy as np
import onnx

from edgeq.calibrate.samples import Array
from edgeq.calibrate.stage import calibrate
from edgeq.errors import ParityError
from edgeq.export.parity import BOUND, Parity, measure_outputs
from edgeq.model.graph.onnx_file import save_onnx
from edgeq.plan.precision import ChannelEqualization
from edgeq.quality.logits import LogitFigures, judge_answers
from edgeq.quantize.equalize.record import EqualizationRecord, EqualizationTrial, EqualizedPoint, SkippedPoint
from edgeq.quantize.equalize.rescale import Rescale
from edgeq.quantize.equalize.smoothquant import STRENGTHS
from edgeq.quantize.equalize.trial import UNTRIED, TrialSetup
from edgeq.quantize.int8.pixels import pixel_input
from edgeq.quantize.int8.qdq import calibrated_tensors, lower
from edgeq.quantize.int8.registry import USUAL

__all__ = ["choose_equalization", "count_trials"]

_MARGIN: Final = 0.03
"""A fold must make the error smaller by this part: less is chance."""


def count_trials(setup: TrialSetup, fold: ChannelEqualization) -> int:
    """How many ways are tried for what was asked."""
    if setup.held_back is None:
        return 0
    if fold == "auto" and not setup.normalized:
        return 2 if setup.uneven else 0
    return {"auto": 3 + len(STRENGTHS), "smooth": len(STRENGTHS), "repq-smooth": len(STRENGTHS)}.get(fold, 0)


def choose_equalization(
    setup: TrialSetup,
    fold: ChannelEqualization,
    proof: Iterable[Array],
    *,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[onnx.ModelProto, EqualizationRecord]:
    """The graph with its channels rescaled, proved to compute the same, and the record of it.

    Args:
        setup: what to work on.
        fold: what was asked: `auto`, a way, or a way without a strength, for which the strength is tried.
        proof: real samples to compare on, in batches [n, ...].
        advance: called with 1 after each trial.

    Raises:
        ParityError: the way that was asked for changes what the graph computes by more than the bound. `auto` takes
            none then, and says so.
        QuantizeError: likewise, a constant does not fit in its type any more.
    """
    between = fold == "cle" or (fold == "auto" and not setup.normalized)
    points, left = setup.conv_places if between else setup.places
    untouched = tuple(SkippedPoint(layer=place.name, kind=place.kind, reason=place.reason) for place in left)
    if not points or fold == "none" or (fold == "auto" and between and not setup.uneven):
        return setup.model, EqualizationRecord(fold="none", left=untouched)
    trials, best = _choose(setup, fold, advance)
    record = EqualizationRecord(fold=best, left=untouched, trials=trials)
    if best == "none":
        return setup.model, record
    model, changes = setup.folded(best)
    parities = measure_outputs(setup.network(setup.model), setup.network(model), proof)
    parity = max(parities, key=lambda each: each.relative)
    if not parity.holds:
        return setup.model, _refused(record, fold, parity)
    return model, record.model_copy(update={"points": _told(changes), "parity": parity})


def _refused(record: EqualizationRecord, asked: ChannelEqualization, parity: Parity) -> EqualizationRecord:
    reason = f"{record.fold} changed the output by {parity.relative:.3g} of its range, {BOUND:g} is allowed"
    if asked != "auto":
        raise ParityError(
            reason,
            causes=("the ranges of its channels are too far apart for float32",),
            next_step="--channel-equalization none, or a smaller strength such as smooth:0.3",
        )
    return record.model_copy(update={"fold": "none", "refused": reason})


def _choose(
    setup: TrialSetup, asked: ChannelEqualization, advance: Callable[[int], None]
) -> tuple[tuple[EqualizationTrial, ...], ChannelEqualization]:
    """The trials, and the way to take."""
    between = asked == "auto" and not setup.normalized
    if asked not in ("auto", "smooth", "repq-smooth"):
        return (), asked
    if setup.held_back is None:
        return (), "cle" if between else f"{'smooth' if asked == 'auto' else asked}:{UNTRIED}"
    trials: list[EqualizationTrial] = []

    def attempt(fold: ChannelEqualization) -> EqualizationTrial:
        trials.append(_attempt(setup, fold))
        advance(1)
        return trials[-1]

    best = attempt("cle") if between else _best_before_linears(attempt, asked)
    if asked == "auto":
        plain = attempt("none")
        best = best if best.logit_error < (1.0 - _MARGIN) * plain.logit_error else plain
    return tuple(trials), best.fold


def _best_before_linears(
    attempt: Callable[[ChannelEqualization], EqualizationTrial], asked: ChannelEqualization
) -> EqualizationTrial:
    kind = "smooth" if asked == "auto" else asked
    best = min((attempt(f"{kind}:{strength}") for strength in STRENGTHS), key=_error)
    if asked != "auto":
        return best
    strength = best.fold.partition(":")[2]
    return min(best, attempt("repq"), attempt(f"repq-smooth:{strength}"), key=_error)


def _error(trial: EqualizationTrial) -> float:
    return trial.logit_error


def _attempt(setup: TrialSetup, fold: ChannelEqualization) -> EqualizationTrial:
    """Calibrate, quantize and run the graph after one way."""
    model, _ = setup.folded(fold)
    with tempfile.TemporaryDirectory() as directory:
        graph = Path(directory) / "folded.onnx"
        save_onnx(model, graph)
        tensors = calibrated_tensors(model, setup.plan)
        scales, _ = calibrate(graph, tensors, setup.some, threads=setup.threads)
    pixels = pixel_input(setup.samples.preprocess)
    figures = _figures(setup, lower(model, setup.plan, scales, USUAL, pixels=pixels))
    return EqualizationTrial(
        fold=fold, images=figures.images, logit_error=figures.logit_error, agreement=figures.agreement
    )


def _figures(setup: TrialSetup, int8: onnx.ModelProto) -> LogitFigures:
    return judge_answers(setup.reference, setup.run(int8), None).figures()


def _told(changes: tuple[Rescale, ...]) -> tuple[EqualizedPoint, ...]:
    """Each point once, with the product of the scales of all steps."""
    by_point: dict[str, list[Rescale]] = {}
    for change in changes:
        by_point.setdefault(change.point.name, []).append(change)
    return tuple(_point(steps) for steps in by_point.values())


def _point(steps: list[Rescale]) -> EqualizedPoint:
    point, scale = steps[0].point, np.prod([step.scale for step in steps], axis=0)
    return EqualizedPoint(
        layer=point.name,
        kind=point.kind,
        into=tuple(consumer.node for consumer in point.consumers),
        smallest=float(scale.min()),
        largest=float(scale.max()),
        shifted=any(bool(step.shift.any()) for step in steps),
    )
