"""The calibration stage: an exported graph, a plan and samples to `scales.json`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

from edgeq.calibrate.diagnose import drift
from edgeq.calibrate.histogram import Histogram
from edgeq.calibrate.observe import Arrival, Observer
from edgeq.calibrate.samples import Array, Samples
from edgeq.calibrate.scales import Scales, TensorScale
from edgeq.calibrate.thresholds import METHODS
from edgeq.errors import ArtifactError, CalibrationError
from edgeq.files import sha256_file

__all__ = ["AUTO", "CALIBRATION_IMAGES", "SCALES", "SEARCH", "WITHOUT_TRIALS", "calibrate", "hold_back"]

SCALES = "scales.json"
AUTO = "auto"
"""The method that tries the others, and the default."""
SEARCH = "search"
"""`auto`, and then a search for each tensor's own range, which starts from what `auto` chose."""
WITHOUT_TRIALS = "mse"
"""What `auto` stands for where there are too few images to try anything on."""
CALIBRATION_IMAGES = 512
"""How many images of a larger set are taken."""

AnySamples = TypeVar("AnySamples", bound=Samples)

_FEWEST_HELD_BACK = 8
_WORKERS = 2
_CHECKPOINT_IMAGES = 64


def hold_back(samples: AnySamples, method: str) -> tuple[AnySamples, AnySamples | None]:
    """Part a calibration set into what is counted and what `auto` judges by.

    A quarter is held back, as far as the samples can be afforded (`Samples.most_held_back`); nothing where that would
    be fewer than eight, or for another method.

    Args:
        samples: the calibration set.
        method: of calibration; nothing is held back unless it is `auto`.
    """
    count = min(samples.most_held_back, len(samples) // 4)
    if method != AUTO or count < _FEWEST_HELD_BACK:
        return samples, None
    held = samples.sample(count, seed=1)
    return samples.without(held.names), held


def calibrate(
    graph: Path,
    tensors: Sequence[str],
    samples: Samples,
    *,
    method: str = WITHOUT_TRIALS,
    threads: int | None = None,
    checkpoint: Path | None = None,
    total: int | None = None,
    advance: Callable[[int], None] | None = None,
) -> tuple[Scales, tuple[str, ...]]:
    """The scales, and the names of the samples that could not be read.

    Args:
        graph: the FP32 file.
        tensors: those that need a scale.
        samples: the calibration images or captions, all of which are used.
        method: whose range is used; every method's is stored. `auto` counts as the one it falls back to.
        threads: of one operator.
        checkpoint: a file to go on from where it exists, and to save to on the way.
        total: size of the set that `samples` are a part of; the share of unusable ones is that of the whole.
        advance: called with the number of samples just seen.

    Raises:
        ImageError: too many images cannot be read.
        CalibrationError: a tensor holds NaN or infinity, no image was seen, or the checkpoint is of another run.
    """
    with ThreadPoolExecutor(1) as pool:  # the file is hashed while ONNX Runtime opens it
        hashed = pool.submit(sha256_file, graph)
        observer = Observer(graph, tensors, threads=threads)
        started = Scales(
            graph_sha256=hashed.result(),
            preprocess_sha256=samples.preprocess_sha256,
            images=0,
            method=WITHOUT_TRIALS if method == AUTO else method,
            tensors={},
        )
    seen, resumed = _go_on(checkpoint, started, tensors)
    observer.histograms.update(resumed or {})
    left = samples.without(_already(samples, seen))
    if advance and len(left) < len(samples):
        advance(len(samples) - len(left))
    skipped: list[str] = []
    digests: dict[str, str] = {}
    arrivals = _arrivals(samples, left.arrays(skipped, total or len(samples)), digests)
    portion = _CHECKPOINT_IMAGES if checkpoint else None
    while counted := _count(observer, islice(arrivals, portion), advance):
        seen += (digests.pop(name) for name in counted)
        if checkpoint and len(counted) == portion:
            _scales(started, observer, seen, methods=()).save(checkpoint)  # it needs the histograms alone
    if not seen:
        raise CalibrationError(
            "no calibration image was seen",
            causes=("the folder holds no readable image",),
            next_step="give a folder or zip of images with --images",
        )
    scales = _scales(started, observer, seen)
    if resumed is None and any(map(_in_last_tenth, seen)):
        scales = scales.model_copy(update={"drift": drift(observer.histograms, observer.late)})
    return scales, tuple(skipped)


def _arrivals(samples: Samples, arrays: Iterable[tuple[str, Array]], digests: dict[str, str]) -> Iterator[Arrival]:
    """The samples as they come; notes the digest of each under its name."""
    for name, array in arrays:
        digests[name] = _digest(samples, name)
        yield name, array, _in_last_tenth(digests[name])


def _count(observer: Observer, arrivals: Iterable[Arrival], advance: Callable[[int], None] | None) -> list[str]:
    """Count samples; gives their names."""
    counted = []
    for name in observer.count(arrivals):
        counted.append(name)
        if advance:
            advance(1)
    return counted


def _in_last_tenth(digest: str) -> bool:
    """Whether a sample is of the tenth that is compared with the rest: by its digest, so that no order matters."""
    return int(digest[:8], 16) % 10 == 0


def _scales(started: Scales, observer: Observer, seen: Sequence[str], methods: Iterable[str] = METHODS) -> Scales:
    merged = observer.merged()
    with ThreadPoolExecutor(_WORKERS) as pool:
        made = pool.map(lambda histogram: TensorScale.from_histogram(histogram, methods), merged.values())
        tensors = dict(zip(merged, made, strict=True))
    return started.model_copy(update={"images": len(seen), "image_digests": tuple(sorted(seen)), "tensors": tensors})


def _digest(samples: Samples, name: str) -> str:
    return samples.digest(name)[:32]


def _already(samples: Samples, seen: Iterable[str]) -> list[str]:
    """The names of the samples that an interrupted run has counted."""
    digests = set(seen)
    return [name for name in samples.names if _digest(samples, name) in digests] if digests else []


def _go_on(
    checkpoint: Path | None, started: Scales, tensors: Sequence[str]
) -> tuple[list[str], dict[str, Histogram] | None]:
    """What an interrupted run has counted: the samples' digests and the histograms."""
    if checkpoint is None or not checkpoint.exists():
        return [], None
    found = Scales.load(checkpoint)
    same = found.graph_sha256 == started.graph_sha256 and found.preprocess_sha256 == started.preprocess_sha256
    if not same or set(found.tensors) != set(tensors):
        raise CalibrationError(
            f"{checkpoint} was left by a run on another graph or with another preprocessing",
            next_step=f"remove {checkpoint} to begin anew",
        )
    histograms = {}
    for name in tensors:
        tensor = found.tensors[name]
        if tensor.histogram is None:
            raise ArtifactError(f"{checkpoint} holds no histograms", next_step=f"remove {checkpoint} to begin anew")
        histograms[name] = tensor.histogram.unpack(tensor.minimum, tensor.maximum)
    return list(found.image_digests), histograms
