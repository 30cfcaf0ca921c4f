"""The figures of one graph beside another: answers to labelled images, speed in turn with others, time of operators."""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.files import sha256_file
from edgeq.model.checkpoint.source import ModelSource
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.stream import ImageStream
from edgeq.quality.tasks.classification import Classification, compare_classifiers, label_indices

__all__ = [
    "CLOCKS",
    "REFERENCE",
    "OperatorTime",
    "Pixels",
    "Speed",
    "interval",
    "logits_of",
    "measure_rounds",
    "milliseconds_of",
    "operator_times",
    "paired",
    "read_labelled",
    "speed",
]

REFERENCE: Final = "fp32"
"""The name of the graph that all others are held against."""

NORMAL_95: Final = 1.96
"""So many standard errors on each side hold the true value in 95 of 100 cases."""

CLOCKS: Final = {"wall": time.perf_counter, "processor": time.process_time}
"""On a machine that others use, too, the wall clock makes a run longer than a time slice many times as slow, and leaves
a shorter one alone. The processor's is that of this process, whose threads also spin while they wait."""

CONVERSIONS: Final = ("QuantizeLinear", "DequantizeLinear")
INTEGERS: Final = {"int8", "uint8"}
PROFILED_RUNS: Final = 40
BATCH: Final = 50

Pixels = NDArray[np.float32]
Logits = NDArray[np.float32]
Round = dict[str, float]
"""Milliseconds an image of each graph, by name, taken in turn."""


@dataclass(frozen=True)
class Speed:
    """How quick a graph is at batch 1.

    Attributes:
        threads: of one operator.
        clock: a key of CLOCKS.
        rounds: how many were taken.
        milliseconds: median over the rounds.
        ratio, low, high: FP32's time over the graph's within a round: median, smallest and largest.
    """

    threads: int
    clock: str
    rounds: int
    milliseconds: float
    ratio: float
    low: float
    high: float


@dataclass(frozen=True)
class OperatorTime:
    """All nodes of one operator, as ONNX Runtime runs them once it has fused the graph.

    Attributes:
        kind: `integer` where it reads 8-bit integers, `conversion` to or from them, `shape` of sizes, or `float`.
        nodes: how many there are.
        milliseconds: of one run: the sum over the nodes of each one's median.
    """

    operator: str
    kind: str
    nodes: int
    milliseconds: float


def read_labelled(images: ImageSet, source: ModelSource) -> tuple[Pixels, NDArray[np.int64]]:
    """Pixels float32 [n, 3, H, W] and the index of the right class [n]."""
    batches, folders = [], []
    for items, pixels in ImageStream(images, source.preprocess, batch_size=BATCH):
        batches.append(pixels)
        folders += [str(item.label) for item in items]
    classes = label_indices(images.labels, source.labels, len(source.labels or images.labels))
    return np.concatenate(batches), np.array([classes[folder] for folder in folders], np.int64)


def logits_of(graph: Path, pixels: Pixels, threads: int) -> Logits:
    engine = OnnxRuntimeEngine(graph, threads=threads)
    starts = range(0, len(pixels), BATCH)
    return np.concatenate(
        [engine.run({engine.inputs[0]: pixels[start : start + BATCH]})[engine.outputs[0]] for start in starts]
    )


def paired(reference: Logits, candidate: Logits, truth: NDArray[np.int64]) -> Classification:
    """Two networks' logits [n, classes] for the same images, against the right classes [n]."""
    batch = (truth, np.empty((len(truth), 0), np.float32))  # the answers are there already
    return compare_classifiers(lambda _: (reference, reference), lambda _: (candidate, candidate), [batch])


def interval(found: Classification) -> float:
    """Half the width of the 95 % interval of the candidate's top-1 less the reference's, in points.

    With half an image more in each of the four cells (Agresti and Min, Statistics in Medicine 24, 2005): without that
    two networks that are right on the same images, by luck, would seem to be equal beyond doubt.
    """
    apart, images = found.only_candidate_right - found.only_reference_right, found.images + 2
    either = found.only_candidate_right + found.only_reference_right + 1
    return 100.0 * NORMAL_95 * math.sqrt(either - apart**2 / images) / images


def measure_rounds(
    graphs: Mapping[str, Path], time_one: Callable[[Path], float], kept: Path, setting: str, count: int
) -> list[Round]:
    """Each graph in turn, round after round, every second round backwards.

    Args:
        graphs: by name; they are known by their SHA-256, so a graph that was made anew is timed anew.
        time_one: milliseconds of a graph.
        kept: rounds are appended there as JSON lines; those of the same graphs and `setting` count.
        setting: how it is timed, in words.
        count: so many rounds at the least.
    """
    key = {"setting": setting, "graphs": {name: sha256_file(path)[:16] for name, path in graphs.items()}}
    rounds = [line["milliseconds"] for line in _lines(kept) if {**key, "milliseconds": line["milliseconds"]} == line]
    while len(rounds) < count:
        turn = list(graphs) if len(rounds) % 2 == 0 else list(graphs)[::-1]
        rounds.append({name: time_one(graphs[name]) for name in turn})
        with kept.open("a") as file:
            file.write(json.dumps({**key, "milliseconds": rounds[-1]}) + "\n")
    return rounds


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        yield from map(json.loads, path.read_text().splitlines())


def milliseconds_of(graph: Path, *, image: Pixels, threads: int, seconds: float, clock: str) -> float:
    """Median of a block of runs, after a quarter of it to warm up; the session lives no longer than the block."""
    engine, now = OnnxRuntimeEngine(graph, threads=threads), CLOCKS[clock]
    feeds = {engine.inputs[0]: image}
    times: list[float] = []
    begin = time.perf_counter()
    while not times or time.perf_counter() < begin + 1.25 * seconds:
        warm = time.perf_counter() >= begin + 0.25 * seconds
        start = now()
        engine.run(feeds)
        times = [*times, now() - start] if warm else times
    return 1e3 * statistics.median(times)


def speed(name: str, rounds: Sequence[Round], threads: int, clock: str) -> Speed:
    """The figures of one graph; a ratio is taken within a round."""
    ratios = [turn[REFERENCE] / turn[name] for turn in rounds]
    milliseconds = statistics.median(turn[name] for turn in rounds)
    return Speed(threads, clock, len(rounds), milliseconds, statistics.median(ratios), min(ratios), max(ratios))


def operator_times(graph: Path, image: Pixels, *, threads: int) -> list[OperatorTime]:
    """What ONNX Runtime's profiler counts for each operator, the longest first.

    Args:
        image: float32 [1, 3, H, W], run PROFILED_RUNS times after a few that do not count.
    """
    times: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for event in _profile(graph, image, threads):
        told = event.get("args", {})
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            operator = str(told["op_name"])
            times[operator, _kind(operator, told["input_type_shape"]), event["name"]].append(event["dur"] / 1e3)
    nodes: dict[tuple[str, str], list[float]] = defaultdict(list)
    for (operator, kind, _), each in times.items():
        nodes[operator, kind].append(statistics.median(each[-PROFILED_RUNS:]))
    found = [OperatorTime(*key, len(medians), sum(medians)) for key, medians in nodes.items()]
    return sorted(found, key=lambda row: -row.milliseconds)


def _profile(graph: Path, image: Pixels, threads: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as directory:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(directory) / "profile")
        session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        for _ in range(PROFILED_RUNS + PROFILED_RUNS // 4):
            session.run(None, {session.get_inputs()[0].name: image})
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text())
    return events


def _kind(operator: str, inputs: Sequence[Mapping[str, Any]]) -> str:
    types = {name for one in inputs for name in one}
    if operator in CONVERSIONS:
        return "conversion"
    if types & INTEGERS:
        return "integer"
    return "float" if "float" in types and operator != "Shape" else "shape"
