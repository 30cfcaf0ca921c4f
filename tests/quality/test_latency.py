"""The order of the blocks and the arithmetic; no time is asserted."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeq.quality.latency import Timing, measure_latency, measure_percentiles, percentiles_of


class Recorder:
    """A simulated engine that writes down that it ran, and on how many images."""

    alive: ClassVar[weakref.WeakSet[Recorder]] = weakref.WeakSet()

    def __init__(self, name: str, log: list[str]) -> None:
        self.inputs: tuple[str, ...] = ("x",)
        self.outputs: tuple[str, ...] = ("y",)
        self.name, self.log = name, log
        log.append(f"open {name}, {len(Recorder.alive)} others alive")
        Recorder.alive.add(self)

    def run(
        self, feeds: Mapping[str, NDArray[np.float32]], outputs: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        assert outputs is None
        self.log.append(f"{self.name} on {len(feeds['x'])}")
        return {}


def test_blocks_alternate_with_one_live_engine() -> None:
    log: list[str] = []
    pixels = np.zeros((5, 3, 2, 2), np.float32)
    result = measure_latency(
        lambda: Recorder("FP32", log),
        lambda: Recorder("INT8", log),
        pixels,
        threads=1,
        timing=Timing(rounds=2, block_seconds=0.0),
    )
    one_round = [line for name in ("FP32", "INT8") for line in (f"open {name}, 0 others alive", *[f"{name} on 5"] * 2)]
    assert log == one_round * 2
    assert (result.batch, result.threads, result.rounds) == (5, 1, 2)


def test_the_speedup_lies_between_its_ends_and_above_zero() -> None:
    log: list[str] = []
    result = measure_latency(
        lambda: Recorder("FP32", log),
        lambda: Recorder("INT8", log),
        np.zeros((1, 3, 2, 2), np.float32),
        threads=1,
        timing=Timing(rounds=3, block_seconds=0.001),
    )
    assert 0 < result.speedup_low <= result.speedup <= result.speedup_high


def test_percentiles_are_of_times_that_were_measured() -> None:
    """1 to 200 ms: the median lies between 100 and 101, and 198 runs took no longer than 198 ms."""
    times = [index / 1000 for index in range(200, 0, -1)]
    found = percentiles_of(times, 4)
    assert (found.batch, found.runs) == (4, 200)
    assert found.p50_ms == pytest.approx(100.5)
    assert found.p99_ms == pytest.approx(198)


@pytest.mark.parametrize(("runs", "known"), [(99, False), (100, True)])
def test_a_99th_percentile_takes_a_hundred_runs(runs: int, known: bool) -> None:
    found = percentiles_of([0.001] * (runs - 1) + [0.5], 1)
    assert (found.p99_ms is not None) is known
    if known:
        assert found.p99_ms == pytest.approx(1)  # 99 of 100 took no longer; the one that did is beyond it


def test_one_engine_alone_warms_up_and_is_timed() -> None:
    log: list[str] = []
    found = measure_percentiles(Recorder("INT8", log), {"x": np.zeros((3, 3, 2, 2), np.float32)}, batch=3, seconds=0.0)
    assert log[1:] == ["INT8 on 3"] * 2  # once to warm up, once timed
    assert (found.runs, found.batch, found.p99_ms) == (1, 3, None)
