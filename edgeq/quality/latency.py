"""Latency of two graphs, measured side by side on a machine that is never quite quiet.

The two are timed in turn, block by block, with one live session at a time: a second session's spinning threads would
slow the first one down. Each pair of blocks gives a ratio; the median of the ratios is what counts.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from edgeq.engine import Engine

__all__ = [
    "DEFAULT_TIMING",
    "Latency",
    "Percentiles",
    "Timing",
    "measure_latency",
    "measure_percentiles",
    "percentiles_of",
]

_ENOUGH_FOR_P99: Final = 100


@dataclass(frozen=True)
class Timing:
    """How long latency is measured.

    Attributes:
        rounds: pairs of blocks, one block for each graph.
        block_seconds: how long a block runs; one batch at least is timed in it.
    """

    rounds: int = 7
    block_seconds: float = 0.5


DEFAULT_TIMING: Final = Timing()


class Latency(BaseModel):
    """Milliseconds a batch, and how many times as fast the candidate is.

    Attributes:
        batch: images in a batch.
        threads: threads of one operator.
        rounds: pairs of blocks.
        reference_ms, candidate_ms: median over the rounds of each block's median.
        speedup: median over the rounds of reference / candidate; above 1 the candidate is faster.
        speedup_low, speedup_high: the smallest and largest round.
        ratios: reference / candidate of each round, in order; empty in figures of before they were kept.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: int
    threads: int
    rounds: int
    reference_ms: float
    candidate_ms: float
    speedup: float
    speedup_low: float
    speedup_high: float
    ratios: tuple[float, ...] = ()


class Percentiles(BaseModel):
    """Milliseconds that one graph takes for a batch.

    Attributes:
        batch: images in a batch.
        runs: how many were timed, after others to warm up.
        p50_ms: the median.
        p99_ms: 99 of 100 runs took no longer; None where there were fewer than 100.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: int
    runs: int
    p50_ms: float
    p99_ms: float | None


def measure_latency(
    reference: Callable[[], Engine],
    candidate: Callable[[], Engine],
    pixels: NDArray[np.float32],
    *,
    threads: int,
    timing: Timing = DEFAULT_TIMING,
) -> Latency:
    """Time both on the same batch.

    Args:
        reference, candidate: open a fresh engine; it is dropped at the end of its block.
        pixels: one batch, float32 [n, 3, H, W].
        threads: what the engines were opened with, for the record.
        timing: how many blocks, and how long each.
    """
    ours, theirs = [], []
    for _ in range(timing.rounds):
        ours.append(_block(reference(), pixels, timing.block_seconds))
        theirs.append(_block(candidate(), pixels, timing.block_seconds))
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return Latency(
        batch=len(pixels),
        threads=threads,
        rounds=timing.rounds,
        reference_ms=1e3 * statistics.median(ours),
        candidate_ms=1e3 * statistics.median(theirs),
        speedup=statistics.median(ratios),
        speedup_low=min(ratios),
        speedup_high=max(ratios),
        ratios=tuple(ratios),
    )


def measure_percentiles(
    engine: Engine, feeds: Mapping[str, NDArray[Any]], *, batch: int, seconds: float
) -> Percentiles:
    """Time one graph, which should be the only one that is at work.

    Args:
        engine: of the graph.
        feeds: an array for each of its inputs.
        batch: images, or pictures, in them.
        seconds: how long it runs; a quarter of that more to warm up.
    """
    _timed(engine, feeds, seconds / 4)
    return percentiles_of(_timed(engine, feeds, seconds), batch)


def percentiles_of(times: list[float], batch: int) -> Percentiles:
    """Percentiles of the seconds that runs took; the 99th is a time that was measured (nearest rank)."""
    ranked, enough = sorted(times), len(times) >= _ENOUGH_FOR_P99
    return Percentiles(
        batch=batch,
        runs=len(times),
        p50_ms=1e3 * statistics.median(times),
        p99_ms=1e3 * ranked[math.ceil(0.99 * len(times)) - 1] if enough else None,
    )


def _block(engine: Engine, pixels: NDArray[np.float32], seconds: float) -> float:
    """Median seconds a batch; the engine dies with this frame, and its threads with it."""
    feeds = {engine.inputs[0]: pixels}
    _timed(engine, feeds, seconds / 2)  # warms up
    return statistics.median(_timed(engine, feeds, seconds))


def _timed(engine: Engine, feeds: Mapping[str, NDArray[Any]], seconds: float) -> list[float]:
    """Seconds of each batch, as many as fit; one at least."""
    times: list[float] = []
    until = time.perf_counter() + seconds
    while not times or time.perf_counter() < until:
        start = time.perf_counter()
        engine.run(feeds)
        times.append(time.perf_counter() - start)
    return times
