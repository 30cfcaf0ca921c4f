"""Graphs in several runtimes timed in turns, each in a process of its own."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.process import ROOT

__all__ = ["Contender", "Row", "measure_latency", "quartiles"]


@dataclass(frozen=True)
class Contender:
    """A graph and what runs it."""

    title: str
    backend: str
    graph: Path


@dataclass(frozen=True)
class Row:
    """The latency of one contender; ratios to the last one's within a round: lower quartile, median, upper quartile."""

    network: str
    threads: int
    batch: int
    contender: str
    milliseconds: float
    ratio: tuple[float, float, float]


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return float(low), float(middle), float(high)


def measure_latency(
    name: str, contenders: Sequence[Contender], *, threads: int, batch: int, side: int, rounds: int, seconds: float
) -> list[Row]:
    """Every contender in a process of its own, in random order within a round, one at a time.

    Args:
        name: of the network.
        contenders: the last is what the others are held against.
        threads: of each.
        batch: images in one run.
        side: of an image, in pixels.
        rounds: blocks of each.
        seconds: of a block; at least one run.

    Raises:
        RuntimeError: one of them does not run.
    """
    order, found = random.Random(0), [[0.0] * rounds for _ in contenders]
    flags = {"threads": threads, "batch": batch, "side": side, "seconds": seconds}
    with _processes(contenders, flags) as processes:
        for number in range(rounds):
            for place in order.sample(range(len(contenders)), len(contenders)):
                found[place][number] = _block(processes[place])
    base = found[-1]
    return [
        Row(
            name,
            threads,
            batch,
            contender.title,
            quartiles(times)[1],
            quartiles([ours / theirs for ours, theirs in zip(times, base, strict=True)]),
        )
        for contender, times in zip(contenders, found, strict=True)
    ]


@contextmanager
def _processes(contenders: Sequence[Contender], shared: Mapping[str, float]) -> Iterator[list[subprocess.Popen[str]]]:
    """One for each, open and warm; `shared` are the flags that all get."""
    started: list[subprocess.Popen[str]] = []
    try:
        for contender in contenders:
            own = {"graph": contender.graph, "backend": contender.backend}
            flags = [f"--{key}={value}" for key, value in {**own, **shared}.items()]
            command = [sys.executable, "-m", "benchmarks.peers.latency_run", *flags]
            started.append(
                subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            if _line(started[-1]) != "ready":
                raise RuntimeError(f"{contender.title} does not run")
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()  # which closes the pipes too


def _block(process: subprocess.Popen[str]) -> float:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    return float(_line(process))


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()
