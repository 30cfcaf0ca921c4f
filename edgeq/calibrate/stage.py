"""The calibration stage: an exported graph, a plan and samples to `scales.json`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from edgeq.calibrate.choices import AUTO, WITHOUT_TRIALS
from edgeq.calibrate.counts import Counting, Counts, count_here, digest_of, is_late
from edgeq.calibrate.diagnose import drift
from edgeq.calibrate.observe import Observer
from edgeq.calibrate.samples import Samples
from edgeq.calibrate.scales import Scales, TensorScale
from edgeq.calibrate.thresholds import METHODS
from edgeq.errors import ArtifactError, CalibrationError, shell_word
from edgeq.files import sha256_file

__all__ = ["SCALES", "calibrate", "hold_back"]

SCALES = "scales.json"
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
    counting: Counting | None = None,
    counted: Callable[[], None] | None = None,
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
        counting: elsewhere, such as on a cluster; None counts in this process.
        counted: called when everything has been counted; making ranges of it needs one processor.

    Raises:
        ImageError: too many images cannot be read.
        CalibrationError: a tensor holds NaN or infinity, no image was seen, or the checkpoint is of another run.
    """
    with ThreadPoolExecutor(1) as pool:  # the file is hashed while ONNX Runtime opens it
        hashed = pool.submit(sha256_file, graph)
        count = counting or _here(Observer(graph, tensors, threads=threads))
        started = Scales(
            graph_sha256=hashed.result(),
            preprocess_sha256=samples.preprocess_sha256,
            images=0,
            method=WITHOUT_TRIALS if method == AUTO else method,
            tensors={},
        )
    whole = Counts.empty(tensors)
    resumed = _go_on(checkpoint, started, tensors)
    if resumed is not None:
        whole.merge(resumed)
    left = samples.without(_already(samples, whole.seen))
    report = advance or (lambda _count: None)
    if len(left) < len(samples):
        report(len(samples) - len(left))

    def take(counts: Counts) -> None:
        whole.merge(counts)
        if checkpoint and counts.seen:
            _scales(started, whole, methods=()).save(checkpoint)  # it needs the histograms alone

    count(started.graph_sha256, left, total or len(samples), _CHECKPOINT_IMAGES if checkpoint else None, take, report)
    if not whole.seen:
        raise CalibrationError(
            "no calibration image was seen",
            causes=("the folder holds no readable image",),
            next_step="give a folder or zip of images with --images",
        )
    del count  # and the network
    if counted:
        counted()
    scales = _scales(started, whole)
    if resumed is None and any(map(is_late, whole.seen)):
        scales = scales.model_copy(update={"drift": drift(whole.histograms, whole.late)})
    unusable = set(whole.skipped)
    return scales, tuple(name for name in samples.names if name in unusable)


def _here(observer: Observer) -> Counting:
    def count(_graph_sha256: str, *how: Any) -> None:
        count_here(observer, *how)

    return count


def _scales(started: Scales, counts: Counts, methods: Iterable[str] = METHODS) -> Scales:
    merged = counts.merged()
    with ThreadPoolExecutor(_WORKERS) as pool:
        made = pool.map(lambda histogram: TensorScale.from_histogram(histogram, methods), merged.values())
        tensors = dict(zip(merged, made, strict=True))
    digests = tuple(sorted(counts.seen))
    return started.model_copy(update={"images": len(digests), "image_digests": digests, "tensors": tensors})


def _already(samples: Samples, seen: Iterable[str]) -> list[str]:
    """The names of the samples that an interrupted run has counted."""
    digests = set(seen)
    return [name for name in samples.names if digest_of(samples, name) in digests] if digests else []


def _go_on(checkpoint: Path | None, started: Scales, tensors: Sequence[str]) -> Counts | None:
    """What an interrupted run has counted; it does not tell which of it was late."""
    if checkpoint is None or not checkpoint.exists():
        return None
    found = Scales.load(checkpoint)
    same = found.graph_sha256 == started.graph_sha256 and found.preprocess_sha256 == started.preprocess_sha256
    if not same or set(found.tensors) != set(tensors):
        raise CalibrationError(
            f"{checkpoint} was left by a run on another graph or with another preprocessing",
            next_step=f"remove {shell_word(checkpoint)} to begin anew",
        )
    histograms = {}
    for name in tensors:
        tensor = found.tensors[name]
        if tensor.histogram is None:
            raise ArtifactError(
                f"{checkpoint} holds no histograms", next_step=f"remove {shell_word(checkpoint)} to begin anew"
            )
        histograms[name] = tensor.histogram.unpack(tensor.minimum, tensor.maximum)
    return Counts(histograms, {}, seen=list(found.image_digests))
