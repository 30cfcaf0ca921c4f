"""The channel equalization as a stage: an exported graph to one that computes the same and quantizes better."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import onnx

from edgeq.calibrate.samples import Array, Samples
from edgeq.errors import PlanError
from edgeq.export.stage import FP32, ExportReport, replace_graph
from edgeq.plan.precision import ChannelEqualization, PrecisionPlan
from edgeq.quantize.equalize.choose import choose_equalization, count_trials
from edgeq.quantize.equalize.record import CHANNEL_EQUALIZATION, EqualizationRecord
from edgeq.quantize.equalize.trial import TrialSetup, int8_linears, is_uneven, trial_setup

__all__ = ["equalize_channels", "equalize_graph"]

_SHOWN = 3

Begin = Callable[[int], Callable[[int], None]]


def _uncounted(_total: int) -> Callable[[int], None]:
    return lambda _done: None


def equalize_channels(
    directory: Path,
    exported: ExportReport,
    plan: PrecisionPlan,
    samples: Samples,
    proof: Iterable[Array],
    asked: ChannelEqualization,
    *,
    threads: int | None = None,
    begin: Begin = _uncounted,
) -> tuple[ExportReport, PrecisionPlan, EqualizationRecord | None]:
    """As `equalize_graph`, for an exported directory.

    The record is written beside the graph.

    Args:
        directory: an exported one; graph and report are replaced where channels were rescaled.
        exported: its report.
        plan: for its graph; it fits the new one as well.
        samples: the calibration set.
        proof: real samples that both graphs are compared on, in batches [n, ...].
        asked: which way.
        threads: of one operator.
        begin: as for `equalize_graph`.

    Returns:
        Report and plan of the graph that is there then, and the record; None where nothing was looked at.

    Raises:
        PlanError, ParityError, QuantizeError: as `equalize_graph`.
    """
    model, plan, record = equalize_graph(directory / FP32, plan, samples, proof, asked, threads=threads, begin=begin)
    if record is not None:
        record.save(directory / CHANNEL_EQUALIZATION)
        if record.parity is not None:
            exported = replace_graph(directory, exported, model, record.fold, record.parity)
    return exported, plan, record


def equalize_graph(
    graph: Path,
    plan: PrecisionPlan,
    samples: Samples,
    proof: Iterable[Array],
    asked: ChannelEqualization,
    *,
    threads: int | None = None,
    begin: Begin = _uncounted,
) -> tuple[onnx.ModelProto, PrecisionPlan, EqualizationRecord | None]:
    """Bring the channels before a graph's INT8 layers to like ranges, as far as that was asked for.

    Args:
        graph: FP32 file; it is not changed.
        plan: for that graph; it fits the new one as well.
        samples: the calibration set.
        proof: real samples that both graphs are compared on, in batches [n, ...].
        asked: which way; `auto` leaves a network without normalization, and without a channel between convolutions that
            is far from the others, as it is, to the byte.
        threads: of one operator.
        begin: called with the number of trials that follow; what it returns is called with 1 after each.

    Returns:
        The graph and its plan, and the record. The graph is another one where the record has a parity; the record is
        None where nothing was looked at.

    Raises:
        PlanError: a way was asked for, and there is no place where it would be exact.
        ParityError, QuantizeError: as `choose_equalization`.
    """
    model = onnx.load(graph)
    if asked == "none" or (asked == "auto" and not int8_linears(plan) and not is_uneven(model, plan)):
        return model, plan, None  # before any sample is read
    setup = trial_setup(model, plan, samples, threads=threads)
    if asked == "auto" and not setup.normalized and not setup.uneven:
        return model, plan, None
    _insist_on_points(setup, asked)
    model, record = choose_equalization(setup, asked, proof, advance=begin(count_trials(setup, asked)))
    return model, plan.model_copy(update={"channel_equalization": record.fold}), record


def _insist_on_points(setup: TrialSetup, asked: ChannelEqualization) -> None:
    points, left = setup.conv_places if asked == "cle" else setup.places
    if asked != "auto" and not points:
        layer = "convolution" if asked == "cle" else "linear layer"
        raise PlanError(
            f"--channel-equalization {asked}: no layer's channels can be rescaled before an INT8 {layer}",
            expected="a convolution whose output goes into convolutions alone, behind a Relu at most"
            if asked == "cle"
            else "a normalization, or a linear layer, whose output goes into linear layers alone",
            causes=tuple(f"{place.name}: {place.reason}" for place in left[:_SHOWN]) or (f"no {layer} is INT8",),
            next_step="--channel-equalization auto, which leaves such a network as it is",
        )
