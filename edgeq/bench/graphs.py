"""Classifiers, detectors, segmenters, and the encoders of CLIP and SigLIP: latency, and throughput by batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict

from edgeq.bench.times import Times, times_of
from edgeq.engine import Engine
from edgeq.errors import EdgeqError, EngineError
from edgeq.runtime.canary.canary_set import CanarySet
from edgeq.runtime.canary.check import canary_feeds
from edgeq.runtime.pixel_answers import Detector, Segmenter
from edgeq.runtime.retrieval.encoders import MOST_IMAGES, MOST_TEXTS
from edgeq.runtime.retrieval.two_tower import TwoTowerModel
from edgeq.runtime.vision_graph import VisionModel

__all__ = ["BatchFigures", "GraphFigures", "GraphLoad", "measure_graph", "measure_towers"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class GraphLoad:
    """How much is run.

    Attributes:
        repeats: that are timed.
        warmup: before them, and not timed.
        batches: images or texts in a run, each number measured by itself.
    """

    repeats: int
    warmup: int
    batches: tuple[int, ...]


class BatchFigures(BaseModel):
    """Runs of one batch size.

    Attributes:
        batch: images or texts in a run.
        run: of the graph, or of the whole encoder.
        per_second: images or texts, by the median.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: int
    run: Times
    per_second: float


class GraphFigures(BaseModel):
    """What was measured of a graph.

    Attributes:
        what: it is given: `image` or `text`.
        whole: from a decoded image, or a text, to the answer or the embedding: what a caller waits for.
        batches: of the graph alone; of the encoders of CLIP and SigLIP with what is before and behind the graph.
        refused: batches that the graph or its engine does not take.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    what: str
    whole: Times
    batches: tuple[BatchFigures, ...]
    refused: tuple[int, ...] = ()


def measure_graph(
    engine: Engine, model: VisionModel | Detector | Segmenter, canaries: CanarySet, load: GraphLoad, report: Progress
) -> GraphFigures:
    """Measure a graph from pixels on the bundle's own canaries.

    Args:
        engine: of the graph.
        model: that it is a part of.
        canaries: of the bundle.
        load: how much.
        report: called as it goes on.

    Raises:
        EngineError: the engine takes not even one image.
    """
    pictures = [known.picture for known in canaries.known if known.picture is not None]
    feeds = [canary_feeds(engine, known) for known in canaries.known]

    def whole(number: int) -> None:
        pixels: Any = model.pixels(pictures[number % len(pictures)])
        model.run(pixels)

    def batch(size: int) -> Callable[[int], object]:
        given = {name: _repeated([each[name] for each in feeds], size) for name in feeds[0]}
        return lambda _number: engine.run(given)

    return _figures("image", whole, batch, load, report)


def measure_towers(
    model: TwoTowerModel, sets: Mapping[str, CanarySet], load: GraphLoad, report: Progress
) -> tuple[GraphFigures, ...]:
    """Measure both encoders of a two-tower model on the bundle's own canaries.

    Args:
        model: opened.
        sets: the canaries of each encoder, from `edgeq.runtime.retrieval.canaries.retrieval_canary_sets`.
        load: how much.
        report: called as it goes on.

    Raises:
        EngineError: an encoder takes not even one text or image.
    """
    known = [each for canaries in sets.values() for each in canaries.known]
    texts = [each.image for each in known if each.picture is None]
    pictures = [each.picture for each in known if each.picture is not None]
    found = [_tower("text", model.text.embed, texts, load, MOST_TEXTS, report)]
    if model.vision is not None and pictures:
        found.append(_tower("image", model.vision.embed, pictures, load, MOST_IMAGES, report))
    return tuple(found)


def _tower(
    what: str,
    embed: Callable[[Sequence[Any]], object],
    given: Sequence[str] | Sequence[Image.Image],
    load: GraphLoad,
    most: int,
    report: Progress,
) -> GraphFigures:
    def batch(size: int) -> Callable[[int], object]:
        if size > most:
            raise EngineError(f"a run takes {most} at most")
        rows = [given[number % len(given)] for number in range(size)]
        return lambda _number: embed(rows)

    return _figures(what, lambda number: embed([given[number % len(given)]]), batch, load, report)


def _figures(
    what: str,
    whole: Callable[[int], object],
    batch: Callable[[int], Callable[[int], object]],
    load: GraphLoad,
    report: Progress,
) -> GraphFigures:
    found, refused = [], []
    total = len(load.batches) + 1
    report(f"{what}: one at a time", 0, total)
    alone = times_of(_timed(whole, load))
    for done, size in enumerate(load.batches, start=1):
        report(f"{what}: batch {size}", done, total)
        try:
            run = times_of(_timed(batch(size), load))
        except EdgeqError:
            if size == 1:
                raise
            refused.append(size)
            continue
        found.append(BatchFigures(batch=size, run=run, per_second=1e3 * size / run.p50_ms))
    return GraphFigures(what=what, whole=alone, batches=tuple(found), refused=tuple(refused))


def _timed(run: Callable[[int], object], load: GraphLoad) -> list[float]:
    """Seconds of each run that counts."""
    times = []
    for number in range(load.warmup + load.repeats):
        start = time.perf_counter()
        run(number)
        times.append(time.perf_counter() - start)
    return times[load.warmup :]


def _repeated(rows: Sequence[NDArray[Any]], size: int) -> NDArray[Any]:
    """The canaries one after the other, again and again, until there are `size` images."""
    joined = np.concatenate(list(rows))
    return np.concatenate([joined] * -(-size // len(joined)))[:size]
