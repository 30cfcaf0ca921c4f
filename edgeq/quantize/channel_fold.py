"""Bring the channels before a transformer's linear layers to like ranges, without changing what the network computes.

A per-tensor grid has one step for all channels, and behind a LayerNorm some are tens of times as wide as others. The
ways are SmoothQuant's (`edgeq.quantize.smooth`), RepQ-ViT's (`edgeq.quantize.repq`), and RepQ-ViT's first and then
SmoothQuant's. `auto` tries them, and none, by the error of the INT8 network's output on images held back.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.calibrate.stage import calibrate
from edgeq.errors import ParityError
from edgeq.export.parity import BOUND, Parity, measure_parity
from edgeq.model.onnx_file import save_onnx
from edgeq.plan.precision import ChannelFold
from edgeq.quantize.answers import Figures, judge_answers
from edgeq.quantize.fold_bench import UNTRIED, Bench
from edgeq.quantize.fold_record import FoldedSite, FoldRecord, FoldTrial, LeftSite
from edgeq.quantize.pixels import Pixels
from edgeq.quantize.qdq import calibrated_tensors, lower
from edgeq.quantize.rescale import Rescale
from edgeq.quantize.smooth import STRENGTHS

__all__ = ["choose_fold", "fold_trials"]

_MARGIN: Final = 0.03
"""A fold must make the error smaller by this part: less is chance."""


def fold_trials(bench: Bench, fold: ChannelFold) -> int:
    """How many ways are tried for what was asked."""
    if bench.held_back is None:
        return 0
    return {"auto": 3 + len(STRENGTHS), "smooth": len(STRENGTHS), "repq-smooth": len(STRENGTHS)}.get(fold, 0)


def choose_fold(
    bench: Bench,
    fold: ChannelFold,
    proof: NDArray[np.float32],
    *,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[onnx.ModelProto, FoldRecord]:
    """The graph with its channels rescaled, proved to compute the same, and the record of it.

    Args:
        bench: what to work on.
        fold: what was asked: `auto`, a way, or a way without a strength, for which the strength is tried.
        proof: real images, float32 [n, 3, H, W].
        advance: called with 1 after each trial.

    Raises:
        ParityError: the way that was asked for changes what the graph computes by more than the bound. `auto` takes
            none then, and says so.
        QuantizeError: likewise, a constant does not fit in its type any more.
    """
    sites, left = bench.places
    untouched = tuple(LeftSite(layer=place.name, kind=place.kind, reason=place.reason) for place in left)
    if not sites or fold == "none" or (fold == "auto" and not bench.normalized):
        return bench.model, FoldRecord(fold="none", left=untouched)
    trials, best = _choose(bench, fold, advance)
    record = FoldRecord(fold=best, left=untouched, trials=trials)
    if best == "none":
        return bench.model, record
    model, changes = bench.folded(best)
    parity = measure_parity(bench.network(bench.model), bench.network(model), np.split(proof, len(proof)))
    if not parity.holds:
        return bench.model, _refused(record, fold, parity)
    return model, record.model_copy(update={"sites": _told(changes), "parity": parity})


def _refused(record: FoldRecord, asked: ChannelFold, parity: Parity) -> FoldRecord:
    reason = f"{record.fold} changed the output by {parity.relative:.3g} of its range, {BOUND:g} is allowed"
    if asked != "auto":
        raise ParityError(
            reason,
            causes=("the ranges of its channels are too far apart for float32",),
            next_step="--channel-fold none, or a smaller strength such as smooth:0.3",
        )
    return record.model_copy(update={"fold": "none", "refused": reason})


def _choose(
    bench: Bench, asked: ChannelFold, advance: Callable[[int], None]
) -> tuple[tuple[FoldTrial, ...], ChannelFold]:
    """The trials, and the way to take."""
    if asked not in ("auto", "smooth", "repq-smooth"):
        return (), asked
    if bench.held_back is None:
        return (), f"{'smooth' if asked == 'auto' else asked}:{UNTRIED}"
    trials: list[FoldTrial] = []

    def attempt(fold: ChannelFold) -> FoldTrial:
        trials.append(_attempt(bench, fold))
        advance(1)
        return trials[-1]

    kind = "smooth" if asked == "auto" else asked
    best = min((attempt(f"{kind}:{strength}") for strength in STRENGTHS), key=_error)
    if asked == "auto":
        strength = best.fold.partition(":")[2]
        best = min(best, attempt("repq"), attempt(f"repq-smooth:{strength}"), key=_error)
        plain = attempt("none")
        best = best if best.logit_error < (1.0 - _MARGIN) * plain.logit_error else plain
    return tuple(trials), best.fold


def _error(trial: FoldTrial) -> float:
    return trial.logit_error


def _attempt(bench: Bench, fold: ChannelFold) -> FoldTrial:
    """Calibrate, quantize and run the graph after one way."""
    model, _ = bench.folded(fold)
    with tempfile.TemporaryDirectory() as directory:
        graph = Path(directory) / "folded.onnx"
        save_onnx(model, graph)
        tensors = calibrated_tensors(model, bench.plan)
        scales, _ = calibrate(graph, tensors, bench.some, bench.preprocess, threads=bench.threads)
    pixels = Pixels.of(bench.preprocess)
    figures = _figures(bench, lower(model, bench.plan, scales, "onnxruntime", pixels=pixels))
    return FoldTrial(fold=fold, images=figures.images, logit_error=figures.logit_error, agreement=figures.agreement)


def _figures(bench: Bench, int8: onnx.ModelProto) -> Figures:
    return judge_answers(bench.reference, bench.run(int8), None).figures()


def _told(changes: tuple[Rescale, ...]) -> tuple[FoldedSite, ...]:
    """Each site once, with the product of the scales of all steps."""
    by_site: dict[str, list[Rescale]] = {}
    for change in changes:
        by_site.setdefault(change.site.name, []).append(change)
    return tuple(_site(steps) for steps in by_site.values())


def _site(steps: list[Rescale]) -> FoldedSite:
    site, scale = steps[0].site, np.prod([step.scale for step in steps], axis=0)
    return FoldedSite(
        layer=site.name,
        kind=site.kind,
        into=tuple(consumer.node for consumer in site.consumers),
        smallest=float(scale.min()),
        largest=float(scale.max()),
        shifted=any(bool(step.shift.any()) for step in steps),
    )
