"""What makes an engine: TensorRT, behind one method, so that the store and the command line are tried without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgeq.engine_store.planned import PREPROCESS
from edgeq.files import read_json_object
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.preprocess_config import read_preprocess
from edgeq.model.images.stream import ImageStream
from edgeq.tensorrt.builder import build_engine
from edgeq.tensorrt.bundled_cache import bundled_cache
from edgeq.tensorrt.calibration_cache import CalibrationCache
from edgeq.tensorrt.calibrator import CalibrationFeed, entropy_calibrator
from edgeq.tensorrt.inputs import ENGINE_INPUTS, EngineInputs
from edgeq.tensorrt.loading import load_tensorrt, version_of
from edgeq.tensorrt.memory import DeviceMemory, open_memory
from edgeq.tensorrt.settings import BuildSettings

__all__ = ["Job", "Maker", "TensorRtMaker"]

Progress = Callable[[str, int, int], None]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """One build.

    Attributes:
        bundle: with the graph; it was verified.
        settings: what the builder is told.
        images: to calibrate on, where the settings say so.
        timing_cache: the file for what the builder measures.
        progress: called as the build goes on.
        say: told what a person should know, in a sentence.
        evidence: a directory for what is left of a build that does not come out as planned; None keeps nothing.
    """

    bundle: Path
    settings: BuildSettings
    images: Path | None
    timing_cache: Path
    progress: Progress
    say: Say
    evidence: Path | None = None


class Maker(Protocol):
    """Something that builds engines.

    Attributes:
        release: its version, such as `10.3.0`.
    """

    release: str

    def make(self, job: Job) -> bytes:
        """A serialized engine.

        Raises:
            EdgeqError: it cannot be built, or is not what was planned.
        """
        ...


class TensorRtMaker:
    """The TensorRT that is installed.

    Args:
        memory: opens the GPU's memory, for calibration.

    Raises:
        EngineError: there is none, or it is too old.
    """

    def __init__(self, memory: Callable[[], DeviceMemory] = open_memory) -> None:
        self._trt = load_tensorrt()
        self._memory = memory
        self.release = ".".join(map(str, version_of(self._trt)))

    def make(self, job: Job) -> bytes:
        """As `Maker.make`; what TensorRT swallows during calibration is raised by `build_engine`."""
        cache = None
        if job.settings.calibration == "cache":
            cache = bundled_cache(job.bundle, version_of(self._trt))
        with self._calibrator(job, cache) as calibrator:
            return build_engine(
                self._trt,
                job.settings,
                job.bundle / job.settings.graph,
                calibrator=calibrator,
                ranges=cache.magnitudes() if cache else None,
                timing_cache=job.timing_cache,
                evidence=job.evidence,
                progress=job.progress,
                say=job.say,
            )

    @contextmanager
    def _calibrator(self, job: Job, cache: CalibrationCache | None) -> Iterator[CalibrationFeed | None]:
        if job.settings.calibration == "none":
            yield None
            return
        calibrator = entropy_calibrator(
            self._trt,
            () if cache else _batches(job),
            shapes=_usual_shapes(job),
            memory=self._memory(),
            cache=cache.to_bytes() if cache else None,
            say=job.say,
        )
        try:
            yield calibrator
        finally:
            calibrator.close()


def _usual_shapes(job: Job) -> dict[str, tuple[int, ...]]:
    """The shape of each input in calibration: OPT where it has a free axis, else the graph's own."""
    chosen = {each.input: each.opt for each in job.settings.profile}
    inputs = (
        EngineInputs.load(job.bundle / job.settings.encoder / ENGINE_INPUTS).graphs[job.settings.quantization].inputs
    )
    return {
        each.name: chosen.get(each.name) or tuple(axis for axis in each.shape if isinstance(axis, int))
        for each in inputs
    }


def _batches(job: Job) -> Iterator[dict[str, NDArray[np.float32]]]:
    """The calibration images, preprocessed, in batches of the usual size."""
    assert job.images is not None
    ((name, shape),) = _usual_shapes(job).items()
    preprocess = read_preprocess(read_json_object(job.bundle / PREPROCESS))
    for _, pixels in ImageStream(ImageSet.open(job.images, calibration=True), preprocess, batch_size=shape[0]):
        yield {name: pixels}
