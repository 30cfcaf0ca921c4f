"""The search for layers to keep in floating point, as the main job and `edgeq sensitivity --search` run it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.calibrate.samples import ImageSamples
from edgeq.calibrate.scales import Scales
from edgeq.engine.onnxruntime import OnnxRuntimeEngine, default_threads
from edgeq.errors import GateError, ImageError
from edgeq.model.checkpoint.source import ModelSource
from edgeq.model.images.image_set import ImageSet
from edgeq.pipeline.stages import Progress, counter, parity_images
from edgeq.plan.precision import PrecisionPlan
from edgeq.quality.latency import Timing, measure_latency
from edgeq.quality.tasks.base import Examples, ImageTask
from edgeq.quantize.int8.pixels import PixelInput
from edgeq.quantize.int8.qdq import lower
from edgeq.quantize.int8.registry import USUAL
from edgeq.quantize.search.bounds import SearchBounds
from edgeq.quantize.search.frontier import FRONTIER_CHART, draw_frontier
from edgeq.quantize.search.layer_search import (
    ImageEvaluation,
    Search,
    SearchStep,
    Speed,
    keep_layers,
    search,
    worst_first,
)
from edgeq.quantize.search.sensitivity import TABLE, Sensitivity, measure_sensitivity

__all__ = ["FEWEST", "SEARCH", "Found", "halves", "save_found", "search_graph"]

SEARCH: Final = "search.json"

_RANKING_IMAGES: Final = 256
FEWEST: Final = 100
"""Labelled images, at least, that can be searched on: half of them are."""
_SPEED: Final = Timing(rounds=3, block_seconds=0.2)


@dataclass(frozen=True)
class Found:
    """What came of it.

    Attributes:
        plan: with the layers kept.
        search: the steps, and the chosen one on images that were not searched.
        table: of the layers; None where no layer had to be kept, so that none was measured.
    """

    plan: PrecisionPlan
    search: Search
    table: Sensitivity | None


def halves(labelled: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Labelled images to search on, and those that the result is judged by.

    Raises:
        ImageError: there are fewer than 100.
    """
    if len(labelled) < FEWEST:
        raise ImageError(
            f"{labelled.path} holds {len(labelled)} labelled images: too few to search on half of them",
            expected=f"{FEWEST} at the least, some thousand for a drop of a tenth of a point",
        )
    searched = labelled.sample(len(labelled) // 2)
    return searched, labelled.without(searched.items)


def search_graph(
    graph: Path,
    plan: PrecisionPlan,
    scales: Scales,
    source: ModelSource,
    ranked_on: ImageSet,
    task: ImageTask[Any],
    labelled: Examples[Any],
    bounds: SearchBounds,
    *,
    threads: int | None,
    report: Progress,
    table: Sensitivity | None = None,
    timed: bool = True,
) -> Found:
    """Find the layers to keep, on one half of `labelled`, and judge by the other.

    Args:
        graph: the FP32 file.
        plan, scales: INT8, for that graph.
        source: gives the class names and the preprocessing.
        ranked_on: images whose logits tell which layers matter; no label is needed.
        task: what the network is for, whose headline is bounded.
        labelled: its examples.
        bounds: what is allowed.
        threads: of one operator.
        report: called as the stages go on.
        table: of the layers, where it was measured already.
        timed: measure how fast each set of layers is.

    Raises:
        GateError: no set of layers within the budget keeps the drop within its bound.
        ImageError: too few images, or examples and classes do not match.
    """
    model, pixels = onnx.load(graph), PixelInput.of(source.preprocess)
    searched, unseen = (labelled.part(half) for half in halves(labelled.images))
    classes = _classes(model, source)
    task.search_tally(labelled, source.labels, classes)  # all of them are looked at: what does not match is found out
    evaluation = ImageEvaluation(model, task, searched, source, classes, threads)
    speed = _speed(graph, parity_images(ranked_on, source, count=1), threads) if timed else None
    advance = counter(report, "search", 0)

    def within(order: tuple[str, ...]) -> Search:
        return search(model, plan, scales, order, evaluation, bounds, pixels=pixels, speed=speed, advance=advance)

    found = within(())
    if found.chosen is None:
        if table is None:
            some = ImageSamples(ranked_on.sample(min(_RANKING_IMAGES, len(ranked_on))), source.preprocess)
            table, _ = measure_sensitivity(model, plan, scales, some, pixels=pixels, threads=threads, report=report)
        found = within(worst_first(table))
    if found.chosen is None:
        raise _out_of_reach(found)
    revised = keep_layers(model, plan, found.kept, beyond_fp16=scales.beyond_fp16)
    judged = ImageEvaluation(model, task, unseen, source, classes, threads)
    check = judged.figures(lower(model, revised, scales, USUAL, pixels=pixels))
    return Found(revised, found.model_copy(update={"check": check}), table)


def save_found(found: Found, directory: Path) -> None:
    """Write the search, the frontier as a chart, and the table of the layers where one was measured."""
    found.search.save(directory / SEARCH)
    draw_frontier(found.search, directory / FRONTIER_CHART)
    if found.table is not None:
        found.table.save(directory / TABLE)


def _classes(model: onnx.ModelProto, source: ModelSource) -> int:
    """The number of logits."""
    stated = model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    return int(stated) or len(source.labels or ())


def _speed(graph: Path, sample: NDArray[np.float32], threads: int | None) -> Speed:
    used = threads or default_threads()

    def speed(candidate: onnx.ModelProto) -> float:
        made = candidate.SerializeToString()
        latency = measure_latency(
            lambda: OnnxRuntimeEngine(graph, threads=used),
            lambda: OnnxRuntimeEngine(made, threads=used),
            sample,
            threads=used,
            timing=_SPEED,
        )
        return latency.speedup

    return speed


def _out_of_reach(found: Search) -> GateError:
    best = min(found.steps, key=lambda step: step.headline.standard_error or 0.0)
    headline = best.headline
    speed = "" if found.min_speedup is None else f" and {found.min_speedup:g} times FP32's speed"
    return GateError(
        f"no set of layers within the budget keeps the drop under {found.max_drop:g} points",
        expected=f"a drop of at most {found.max_drop:g} with a 95 % limit of at most {found.max_unseen_drop:g}, "
        f"with at most {found.max_share:g} % of the bytes in floating point{speed}",
        causes=(
            f"with {len(best.kept)} layers kept ({best.share:.1f} % of the bytes{_times(best)}) the drop is "
            f"{headline.drop:.2f}{headline.doubt} points on {headline.examples} images",
            "with few images, the drop's own error is larger than the bound",
        ),
        next_step="allow more with --max-drop, --max-float-share or --min-speedup, or give more labelled images",
    )


def _times(step: SearchStep) -> str:
    return "" if step.speedup is None else f", {step.speedup:.2f} times FP32's speed"
