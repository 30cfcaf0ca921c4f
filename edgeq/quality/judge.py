"""Judge a quantized network against its FP32 source: answers, latency, size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from edgeq.engine.base import Engine, EngineBackend
from edgeq.engine.onnxruntime import default_threads
from edgeq.engine.registry import DEFAULT
from edgeq.errors import EngineError
from edgeq.model.checkpoint.source import ModelSource
from edgeq.model.images.preprocess import Preprocess
from edgeq.model.images.stream import ImageStream
from edgeq.quality.judged import Judged
from edgeq.quality.latency import DEFAULT_TIMING, Latency, Timing, measure_latency
from edgeq.quality.tasks.base import Examples, Figures, Headline, ImageTask, Outputs, Tally
from edgeq.quality.tasks.classification import Classification
from edgeq.quality.tasks.embedding import Fidelity
from edgeq.quality.tasks.registry import UNLABELLED, AnyFigures

__all__ = ["Quality", "compare_preprocessing", "judge"]

QUALITY_VERSION: Final = "edgeq.quality/1"
LATENCY_BATCHES = (1, 64)

Network = Callable[[NDArray[np.float32]], Outputs]
Batch = tuple[Sequence[str], NDArray[np.float32]]


class Quality(Judged):
    """What was measured of one pair of graphs.

    Attributes:
        backend: what ran both graphs; no other backend's figure is implied.
        answers: of a classifier on labelled images; else None.
        fidelity: how near the two graphs' answers are, where no labelled images were given; else None.
        latency: one entry for each batch size.
        reference_bytes, candidate_bytes: sizes of the ONNX files.
        skipped: labelled images that could not be read.
        figures: of another task on labelled images; else None, and not written.
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
    figures: AnyFigures | None = None


def judge(
    reference: Path,
    candidate: Path,
    task: ImageTask[Any],
    examples: Examples[Any] | None,
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
        task: what the networks are for.
        examples: labelled images; None leaves what is right unjudged.
        source: gives the class names and the preprocessing.
        images: real ones without labels, float32 [n, 3, H, W]; latency is measured on copies of the first. Without
            `examples`, the two graphs' answers to them are compared.
        backend: that runs both.
        threads: of one operator.
        timing: how long latency is measured.
        advance: called with the number of images just judged.

    Raises:
        ImageError: examples and classes do not match, or too many images cannot be read.
        EngineError: a graph does not run.
    """
    threads = threads or default_threads()
    skipped: tuple[str, ...] = ()
    if examples is None:
        task, figures = UNLABELLED, _unlabelled(reference, candidate, images, backend, threads)
    else:
        figures, skipped = _labelled(
            reference, candidate, task, examples, source, images[:1], backend, threads, advance
        )
    found: dict[str, Any] = {"answers": None, task.key: figures}
    return Quality(
        backend=backend.version(),
        latency=tuple(
            _latency(reference, candidate, images[:1], batch, backend, threads, timing) for batch in LATENCY_BATCHES
        ),
        reference_bytes=reference.stat().st_size,
        candidate_bytes=candidate.stat().st_size,
        skipped=skipped,
        **found,
    )


def _labelled(
    reference: Path,
    candidate: Path,
    task: ImageTask[Any],
    examples: Examples[Any],
    source: ModelSource,
    sample: NDArray[np.float32],
    backend: EngineBackend,
    threads: int,
    advance: Callable[[int], None] | None,
) -> tuple[Figures, tuple[str, ...]]:
    """The figures, and the names of the images that could not be read."""
    stream = ImageStream(examples.images, source.preprocess, batch_size=task.batch)
    ours, theirs = (_network(path, task, backend, threads) for path in (reference, candidate))
    tally = task.tally(examples, source.labels, ours(sample)[0].shape[-1])
    batches = (([item.name for item in items], pixels) for items, pixels in stream)
    return _compared(ours, theirs, batches, tally, advance), tuple(image.name for image in stream.skipped)


def compare_preprocessing(
    graph: Path,
    task: ImageTask[Any],
    examples: Examples[Any],
    source: ModelSource,
    others: Sequence[Preprocess],
    *,
    backend: EngineBackend = DEFAULT,
    threads: int | None = None,
) -> tuple[Headline | None, ...]:
    """One graph with the model's preprocessing, as reference, and with each of others, on the same labelled images.

    Args:
        graph: FP32 ONNX file.
        task: what the network is for.
        examples: labelled images, which are read once.
        source: gives the class names and the preprocessing.
        others: the candidates; they differ from the model's in numbers and order of channels alone.
        backend: that runs the graph.
        threads: of one operator; None takes every processor there is.

    Returns:
        For each of `others` the headline; None where the graph gave NaN or infinity.

    Raises:
        ImageError: too many images cannot be read.
        EngineError: the graph does not run, or gives NaN with the model's own preprocessing.
    """
    network = _network(graph, task, backend, threads or default_threads())
    tallies: dict[int, Tally] = {}
    failed: set[int] = set()
    for items, pixels in ImageStream(examples.images, source.preprocess, batch_size=task.batch):
        given, names = network(pixels), [item.name for item in items]
        for place, other in enumerate(others):
            if place not in tallies:
                tallies[place] = task.tally(examples, source.labels, given[0].shape[-1])
            try:
                tallies[place].add(names, given, network(source.preprocess.converted(pixels, other)))
            except EngineError:
                failed.add(place)
    return tuple(
        tallies[place].figures().headline() if place in tallies and place not in failed else None
        for place in range(len(others))
    )


def _unlabelled(
    reference: Path, candidate: Path, images: NDArray[np.float32], backend: EngineBackend, threads: int
) -> Figures:
    """What both give for the same images, compared; the engines die with this frame."""
    ours, theirs = (_network(path, UNLABELLED, backend, threads) for path in (reference, candidate))
    return _compared(ours, theirs, _pieces(images, UNLABELLED.batch), UNLABELLED.begin(), None)


def _pieces(images: NDArray[np.float32], size: int) -> Iterator[Batch]:
    for start in range(0, len(images), size):
        piece = images[start : start + size]
        yield [str(start + place) for place in range(len(piece))], piece


def _compared(
    reference: Network,
    candidate: Network,
    batches: Iterable[Batch],
    tally: Tally,
    advance: Callable[[int], None] | None,
) -> Figures:
    for names, pixels in batches:
        tally.add(names, reference(pixels), candidate(pixels))
        if advance:
            advance(len(names))
    return tally.figures()


def _network(path: Path, task: ImageTask[Any], backend: EngineBackend, threads: int) -> Network:
    """The graph in `path`, giving the outputs that are the answer, and its features where the task wants them."""
    engine, names = (
        _with_features(path, task, backend, threads) if task.features else _as_it_is(path, task, backend, threads)
    )

    def run(pixels: NDArray[np.float32]) -> Outputs:
        values = engine.run({engine.inputs[0]: pixels}, names)
        return tuple(values[name] for name in names)

    return run


def _as_it_is(path: Path, task: ImageTask[Any], backend: EngineBackend, threads: int) -> tuple[Engine, tuple[str, ...]]:
    engine = backend.open(path, threads=threads)
    return engine, task.outputs(engine.outputs)


def _with_features(
    path: Path, task: ImageTask[Any], backend: EngineBackend, threads: int
) -> tuple[Engine, tuple[str, ...]]:
    """What enters the head stands behind the outputs: the first of them again where there is no head."""
    import onnx

    from edgeq.calibrate.observe import with_outputs
    from edgeq.model.graph.components import head_nodes
    from edgeq.model.graph.element_types import element_types

    model = onnx.load(path)
    outputs = task.outputs([output.name for output in model.graph.output])
    heads = head_nodes(model)
    features = next((node.input[0] for node in model.graph.node if node.name in heads[:1]), outputs[0])
    if element_types(model).get(features) == onnx.TensorProto.FLOAT16:
        widened = f"{features}.widened"
        model.graph.node.append(onnx.helper.make_node("Cast", [features], [widened], to=onnx.TensorProto.FLOAT))
        features = widened
    engine = backend.open(with_outputs(model, [features]).SerializeToString(), threads=threads)
    return engine, (*outputs, features)


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
