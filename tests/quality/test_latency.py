"""The order of the blocks and the arithmetic; no time is asserted."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgeq.quality.latency import Timing, measure_latency


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
