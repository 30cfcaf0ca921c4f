"""Judge a quantized classifier against its FP32 source: answers, features, latency, size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.artifact import Artifact
from edgeq.calibrate.observe import with_outputs
from edgeq.engine.base import EngineBackend
from edgeq.engine.onnxruntime import default_threads
from edgeq.engine.registry import DEFAULT
from edgeq.model.checkpoint.source import ModelSource
from edgeq.model.graph.components import head_nodes
from edgeq.model.graph.element_types import element_types
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.stream import ImageStream
from edgeq.quality.latency import DEFAULT_TIMING, Latency, Timing, measure_latency
from edgeq.quality.tasks.classification import Classification, Judged, compare_classifiers, label_indices
from edgeq.quality.tasks.embedding import Fidelity, measure_fidelity

__all__ = ["Quality", "judge"]

QUALITY_VERSION: Final = "edgeq.quality/1"
LATENCY_BATCHES = (1, 64)
EVALUATION_BATCH = 64


class Quality(Artifact):
    """What was measured of one pair of graphs.

    Attributes:
        backend: what ran both graphs; no other backend's figure is implied.
        answers: None where no labelled images were given.
        fidelity: how near the two graphs' answers are, where no labelled images were given; else None.
        latency: one entry for each batch size.
        reference_bytes, candidate_bytes: sizes of the ONNX files.
        skipped: labelled images that could not be read.
    """

    otherwise = "holds no quality figures"

    version: Literal["edgeq.quality/1"] = QUALITY_VERSION
    backend: str
    answers: Classification | None
    fidelity: Fidelity | None = None
    latency: tuple[Latency, ...]
    reference_bytes: int
    candidate_bytes: int
    skipped: tuple[str, ...] = ()


def judge(
    reference: Path,
    candidate: Path,
    labelled: ImageSet | None,
    source: ModelSource,
    images: NDArray[np.float32],
    *,
    backend: EngineBackend = DEFAULT,
    threads: int | None = None,
    timing: Timing = DEFAULT_TIMING,
    advance: Callable[[int], None] | None = None,
) -> Quality:
    """Run both graphs in one backend and compare.

    Args:
        reference, candidate: ONNX files; the candidate was made from the reference and has its node names.
        labelled: images in folders named after their class; None leaves `answers` empty.
        source: gives the class names and the preprocessing.
        images: real ones without labels, float32 [n, 3, H, W]; latency is measured on copies of the first. Without
            `labelled`, the two graphs' answers to them are compared.
        backend: that runs both.
        threads: of one operator.
        timing: how long latency is measured.
        advance: called with the number of images just judged.

    Raises:
        ImageError: folders and classes do not match, or too many images cannot be read.
        EngineError: a graph does not run.
    """
    threads = threads or default_threads()
    answers: Classification | None = None
    fidelity: Fidelity | None = None
    skipped: tuple[str, ...] = ()
    if labelled is None:
        fidelity = _fidelity(reference, candidate, images, backend, threads)
    else:
        stream = ImageStream(labelled, source.preprocess, batch_size=EVALUATION_BATCH)
        ours, theirs = _judged(reference, backend, threads), _judged(candidate, backend, threads)
        indices = label_indices(labelled.labels, source.labels, ours(images[:1])[0].shape[1])
        answers = compare_classifiers(ours, theirs, _labelled(stream, indices), advance=advance)
        skipped = tuple(image.name for image in stream.skipped)
    return Quality(
        backend=backend.version(),
        answers=answers,
        fidelity=fidelity,
        latency=tuple(
            _latency(reference, candidate, images[:1], batch, backend, threads, timing) for batch in LATENCY_BATCHES
        ),
        reference_bytes=reference.stat().st_size,
        candidate_bytes=candidate.stat().st_size,
        skipped=skipped,
    )


def _fidelity(
    reference: Path, candidate: Path, images: NDArray[np.float32], backend: EngineBackend, threads: int
) -> Fidelity:
    """What both give for the same images, compared; the engines die with this frame."""

    def network(path: Path) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        engine = backend.open(path, threads=threads)
        return lambda image: engine.run({engine.inputs[0]: image})[engine.outputs[0]]

    return measure_fidelity(network(reference), network(candidate), images)


def _judged(path: Path, backend: EngineBackend, threads: int) -> Judged:
    """The graph in `path`, giving its logits and what enters its head (the logits again where there is no head)."""
    model = onnx.load(path)
    logits = model.graph.output[0].name
    heads = head_nodes(model)
    features = next((node.input[0] for node in model.graph.node if node.name in heads[:1]), logits)
    if element_types(model).get(features) == onnx.TensorProto.FLOAT16:
        widened = f"{features}.widened"
        model.graph.node.append(onnx.helper.make_node("Cast", [features], [widened], to=onnx.TensorProto.FLOAT))
        features = widened
    engine = backend.open(with_outputs(model, [features]).SerializeToString(), threads=threads)

    def run(pixels: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        values = engine.run({engine.inputs[0]: pixels}, (logits, features))
        return values[logits], values[features]

    return run


def _labelled(stream: ImageStream, indices: dict[str, int]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    for items, pixels in stream:
        yield np.array([indices[str(item.label)] for item in items], np.int64), pixels


def _latency(
    reference: Path,
    candidate: Path,
    sample: NDArray[np.float32],
    batch: int,
    backend: EngineBackend,
    threads: int,
    timing: Timing,
) -> Latency:
    return measure_latency(
        lambda: backend.open(reference, threads=threads, batch=batch),
        lambda: backend.open(candidate, threads=threads, batch=batch),
        np.repeat(sample, batch, axis=0),
        threads=threads,
        timing=timing,
    )
