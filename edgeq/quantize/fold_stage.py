"""The channel fold as a stage: an exported graph to one that computes the same and quantizes better."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.errors import PlanError
from edgeq.export.stage import FP32, ExportReport, replace_graph
from edgeq.model.images import ImageSet
from edgeq.model.preprocess import Preprocess
from edgeq.plan.precision import ChannelFold, PrecisionPlan
from edgeq.quantize.channel_fold import choose_fold, fold_trials
from edgeq.quantize.fold_bench import Bench, fold_bench, int8_linears
from edgeq.quantize.fold_record import CHANNEL_FOLD, FoldRecord

__all__ = ["fold_channels"]

_SHOWN = 3


def fold_channels(
    directory: Path,
    exported: ExportReport,
    plan: PrecisionPlan,
    images: ImageSet,
    preprocess: Preprocess,
    proof: NDArray[np.float32],
    asked: ChannelFold,
    *,
    threads: int | None = None,
    begin: Callable[[int], Callable[[int], None]] = lambda _total: lambda _done: None,
) -> tuple[ExportReport, PrecisionPlan, FoldRecord | None]:
    """Bring the channels before an exported graph's INT8 linear layers to like ranges, as far as that was asked for.

    The record is written beside the graph.

    Args:
        directory: an exported one; graph and report are replaced where channels were rescaled.
        exported: its report.
        plan: for its graph; it fits the new one as well.
        images: calibration images.
        preprocess: from an image to the graph's input.
        proof: real images, float32 [n, 3, H, W], that both graphs are compared on.
        asked: which way; `auto` leaves a network without normalization as it is, to the byte.
        threads: of one operator.
        begin: called with the number of trials that follow; what it returns is called with 1 after each.

    Returns:
        Report and plan of the graph that is there then, and the record; None where nothing was looked at.

    Raises:
        PlanError: a way was asked for, and there is no place where it would be exact.
        ParityError, QuantizeError: as `choose_fold`.
    """
    if asked == "none" or (asked == "auto" and not int8_linears(plan)):
        return exported, plan, None
    bench = fold_bench(onnx.load(directory / FP32), plan, images, preprocess, threads=threads)
    if asked == "auto" and not bench.normalized:
        return exported, plan, None
    _insist_on_sites(bench, asked)
    model, record = choose_fold(bench, asked, proof, advance=begin(fold_trials(bench, asked)))
    record.save(directory / CHANNEL_FOLD)
    if record.parity is not None:
        exported = replace_graph(directory, exported, model, record.fold, record.parity)
    return exported, plan.model_copy(update={"channel_fold": record.fold}), record


def _insist_on_sites(bench: Bench, asked: ChannelFold) -> None:
    sites, left = bench.places
    if not sites:
        raise PlanError(
            f"--channel-fold {asked}: no layer's channels can be rescaled before an INT8 linear layer",
            expected="a normalization, or a linear layer, whose output goes into linear layers alone",
            causes=tuple(f"{place.name}: {place.reason}" for place in left[:_SHOWN]) or ("no linear layer is INT8",),
            next_step="--channel-fold auto, which leaves such a network as it is",
        )
