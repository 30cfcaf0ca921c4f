"""What every peer is given, and the one line that it answers.

Images are decoded and preprocessed by edgeq's own code for every tool, so nothing but the tool differs. This module
needs no more than NumPy and Pillow, because it is imported in the peers' environments too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.preprocess import Preprocess
from edgeq.model.images.preprocess_config import read_preprocess
from edgeq.model.images.stream import ImageStream

__all__ = ["END", "Task", "peak_memory", "report"]

END = "end.json"


@dataclass(frozen=True)
class Task:
    """One job.

    Attributes:
        graph: an ONNX file, FP32 and folded, or (to be scored) a quantized one; or an OpenVINO .xml.
        preprocess_config: the `preprocessor_config.json` of the network.
        images: a folder or zip.
        count: so many of the images, chosen by `ImageSet.sample`.
        threads: processors that this process keeps to.
        setting: the tool's own way of calibrating.
        output: where the result goes.
        started: `time.perf_counter()` when the job began: after the imports.
    """

    graph: Path
    preprocess_config: Path
    images: Path
    count: int
    threads: int
    setting: str
    output: Path
    started: float = field(default_factory=time.perf_counter)

    @classmethod
    def read(cls) -> Task:
        """The job of the command line; from here on the process keeps to `threads` processors."""
        parser = argparse.ArgumentParser()
        for name in ("graph", "preprocess-config", "images", "output"):
            parser.add_argument(f"--{name}", type=Path, required=True)
        for name in ("count", "threads"):
            parser.add_argument(f"--{name}", type=int, required=True)
        parser.add_argument("--setting", default="")
        arguments = parser.parse_args()
        if hasattr(os, "sched_setaffinity"):  # not every peer lets its threads be counted
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
        return cls(**vars(arguments))

    @property
    def preprocess(self) -> Preprocess:
        """From an image to the network's input."""
        return read_preprocess(json.loads(self.preprocess_config.read_text()))

    @property
    def end(self) -> list[str]:
        """Names of the last nodes, which a setting leaves out of INT8: in `end.json` beside the graph."""
        names: list[str] = json.loads(self.graph.with_name(END).read_text())
        return names

    @property
    def image_set(self) -> ImageSet:
        """The images of this job."""
        return ImageSet.open(self.images).sample(self.count)

    def pixels(self) -> Iterator[NDArray[np.float32]]:
        """One preprocessed image after the other, float32 [1, 3, H, W], decoded a few ahead."""
        for _, batch in ImageStream(self.image_set, self.preprocess, batch_size=1):
            yield batch

    def elapsed(self) -> float:
        """Seconds since the job began."""
        return time.perf_counter() - self.started


def peak_memory() -> int:
    """The largest resident memory of this process so far, in bytes (Linux counts it in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def report(version: str, *, scales_peak: int | None = None, **seconds: float) -> None:
    """Print the one line that the orchestrator reads.

    Args:
        version: of the tool.
        scales_peak: `peak_memory()` once the scales were made, where the tool can be stopped there.
        seconds: `scales` and `model`, as in `benchmarks.process.Run`.
    """
    print(json.dumps({"version": version, "seconds": seconds, "scales_peak": scales_peak}), flush=True)
