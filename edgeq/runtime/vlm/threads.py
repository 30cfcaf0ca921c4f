"""With how many threads a language model is quickest. Needs torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import torch

__all__ = ["tune_threads"]

_ROUNDS: Final = 5
_RUNS: Final = 5
_LONGEST_S: Final = 1.0
_NEARLY: Final = 1.1


def tune_threads(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> int:
    """Let torch use the fewest threads with which `run` is nearly as quick as with any number that was tried.

    The operators of a small model are so short that waking a second thread costs more than it saves, and whoever is
    answered waits for the processor that it keeps busy.

    Args:
        run: a piece of the work, such as a decode step.
        clock: seconds.

    Returns:
        That number: torch's own, or a half, a quarter, … of it.
    """
    counts = [torch.get_num_threads()]
    while counts[-1] > 1:
        counts.append(counts[-1] // 2)
    times = dict.fromkeys(counts, float("inf"))
    began = clock()
    for _ in range(_ROUNDS):  # each number has several turns, so that a busy moment of the machine is nobody's alone
        for count in counts:
            times[count] = min(times[count], _quickest(run, count, clock))
        if clock() - began > _LONGEST_S:
            break
    chosen = min(count for count, seconds in times.items() if seconds <= _NEARLY * min(times.values()))
    torch.set_num_threads(chosen)
    return chosen


def _quickest(run: Callable[[], object], threads: int, clock: Callable[[], float]) -> float:
    """Seconds of the quickest of a few runs; fewer where they are long."""
    torch.set_num_threads(threads)
    run()
    times: list[float] = []
    while len(times) < _RUNS and sum(times) < _LONGEST_S:
        start = clock()
        run()
        times.append(clock() - start)
    return min(times)
