"""Time and memory of calibration: each tool in turn, round after round, so that a busy minute meets all of them."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.networks import Network
from benchmarks.process import Run
from benchmarks.tools import Interpreters, Tool, run_tool

__all__ = ["FORWARD", "SPEED_TOOLS", "Budget", "SpeedRow", "measure_speed"]

FORWARD = Tool("forward", "forward_run")
EDGEQ = Tool("edgeq", "edgeq_run", "mse")
SPEED_TOOLS = {
    FORWARD: True,
    EDGEQ: True,
    Tool("edgeq", "edgeq_run", "auto"): True,
    Tool("nncf", "nncf_run", "minmax", ".xml"): True,
    Tool("onnxruntime", "onnxruntime_run", "minmax-u8", ".onnx"): False,
    Tool("onnxruntime", "onnxruntime_run", "percentile-u8", ".onnx"): False,
    Tool("onnxruntime", "onnxruntime_run", "entropy-u8", ".onnx"): False,
    Tool("modelopt", "modelopt_run", "entropy", ".onnx"): False,
}
"""Tool -> whether it is quick enough to be run in every round; the others are run in the first."""


@dataclass(frozen=True)
class Budget:
    """What the runs may use.

    Attributes:
        threads: processors.
        rounds: how often the quick tools are run.
        memory_limit: bytes beyond which a process is stopped.
    """

    threads: int
    rounds: int
    memory_limit: int


@dataclass(frozen=True)
class SpeedRow:
    """One tool at one number of images; medians over its rounds, ratios within a round.

    Attributes:
        scales: seconds an image, images on disk to scales, imports left out; None where the tool goes on to the model.
        model: seconds an image to the INT8 model, imports left out.
        process: seconds an image of the whole process.
        scales_peak: bytes, the largest of the rounds, once the scales were made; None as for `scales`.
        peak: the same of the whole process.
        times_forward: `scales` (or else `model`) over that of the plain FP32 pass.
        times_edgeq: `model` over edgeq's.
        failure: why there are no figures.
    """

    tool: str
    version: str
    images: int
    rounds: int
    scales: float | None
    model: float | None
    process: float | None
    scales_peak: int | None
    peak: int
    times_forward: float | None
    times_edgeq: float | None
    failure: str


Runs = dict[tuple[Tool, int], list[Run]]


def measure_speed(
    network: Network,
    images: Path,
    counts: Sequence[int],
    interpreters: Interpreters,
    scratch: Path,
    budget: Budget,
    *,
    say: Callable[[str], None],
) -> list[SpeedRow]:
    """Run every tool that is there at every number of images.

    Args:
        scratch: a directory for what the tools make; emptied after each run.
        say: called with a line before each run.
    """
    runs: Runs = {}
    for number, tool, count in _order(interpreters, counts, budget.rounds):
        say(f"round {number + 1}/{budget.rounds}: {tool.title}, {count} images")
        output = scratch / f"result{tool.suffix}"
        runs.setdefault((tool, count), []).append(
            run_tool(
                tool,
                interpreters.of(tool),
                network,
                images,
                output,
                count=count,
                threads=budget.threads,
                memory_limit=budget.memory_limit,
            )
        )
        shutil.rmtree(scratch, ignore_errors=True)
    return [_row(runs, tool, count) for tool in SPEED_TOOLS for count in counts if (tool, count) in runs]


def _order(interpreters: Interpreters, counts: Sequence[int], rounds: int) -> Iterator[tuple[int, Tool, int]]:
    """(round, tool, number of images), each tool in turn."""
    for number in range(rounds):
        for count in counts:
            for tool in interpreters.having(SPEED_TOOLS):
                if number == 0 or SPEED_TOOLS[tool]:
                    yield number, tool, count


def _row(runs: Runs, tool: Tool, count: int) -> SpeedRow:
    found = runs[tool, count]
    failure = next((run.failure for run in found if run.failure), "")
    good = [] if failure else found

    def each(seconds: Callable[[Run], float]) -> float | None:
        return statistics.median(seconds(run) / count for run in good) if good else None

    partial = bool(good) and "scales" in good[0].seconds
    return SpeedRow(
        tool=tool.title,
        version=found[0].version,
        images=count,
        rounds=len(found),
        scales=each(lambda run: run.seconds["scales"]) if partial else None,
        model=each(lambda run: run.seconds["model"]),
        process=each(lambda run: run.wall),
        scales_peak=max((run.scales_peak for run in found if run.scales_peak), default=None),
        peak=max(run.peak for run in found),
        times_forward=_ratio(good, runs.get((FORWARD, count), []), "scales" if partial else "model"),
        times_edgeq=_ratio(good, runs.get((EDGEQ, count), []), "model"),
        failure=failure,
    )


def _ratio(ours: Sequence[Run], base: Sequence[Run], part: str) -> float | None:
    """Median over the rounds that both have."""
    shared = zip(ours, base, strict=False)  # a slow tool has fewer rounds
    ratios = [run.seconds[part] / other.seconds["model"] for run, other in shared if not other.failure]
    return statistics.median(ratios) if ratios else None
