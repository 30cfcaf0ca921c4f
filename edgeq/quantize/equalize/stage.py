"""The channel equalization as a stage: an exported graph to one that computes the same and quantizes better."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.errors import PlanError
from edgeq.export.stage import FP32, ExportReport, replace_graph
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.preprocess import Preprocess
from edgeq.plan.precision import ChannelEqualization, PrecisionPlan
from edgeq.quantize.equalize.choose import choose_equalization, count_trials
from edgeq.quantize.equalize.record import CHANNEL_EQUALIZATION, EqualizationRecord
from edgeq.quantize.equalize.trial import TrialSetup, int8_linears, trial_setup

__all__ = ["equalize_channels"]

_SHOWN = 3


def equalize_channels(
    directory: Path,
    exported: ExportReport,
    plan: PrecisionPlan,
    images: ImageSet,
    preprocess: Preprocess,
    proof: NDArray[np.float32],
    asked: ChannelEqualization,
    *,
    threads: int | None = None,
    begin: Callable[[int], Callable[[int], None]] = lambda _total: lambda _done: None,
) -> tuple[ExportReport, PrecisionPlan, EqualizationRecord | None]:
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
        ParityError, QuantizeError: as `choose_equalization`.
    """
    if asked == "none" or (asked == "auto" and not int8_linears(plan)):
        return exported, plan, None
    setup = trial_setup(onnx.load(directory / FP32), plan, images, preprocess, threads=threads)
    if asked == "auto" and not setup.normalized:
        return exported, plan, None
    _insist_on_points(setup, asked)
    model, record = choose_equalization(setup, asked, proof, advance=begin(count_trials(setup, asked)))
    record.save(directory / CHANNEL_EQUALIZATION)
    if record.parity is not None:
        exported = replace_graph(directory, exported, model, record.fold, record.parity)
    return exported, plan.model_copy(update={"channel_equalization": record.fold}), record


def _insist_on_points(setup: TrialSetup, asked: ChannelEqualization) -> None:
    points, left = setup.places
    if not points:
        raise PlanError(
            f"--channel-equalization {asked}: no layer's channels can be rescaled before an INT8 linear layer",
            expected="a normalization, or a linear layer, whose output goes into linear layers alone",
            causes=tuple(f"{place.name}: {place.reason}" for place in left[:_SHOWN]) or ("no linear layer is INT8",),
            next_step="--channel-equalization auto, which leaves such a network as it is",
        )
