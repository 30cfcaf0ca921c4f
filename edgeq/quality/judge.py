"""Judge a quantized network against its FP32 source: answers, latency, size."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from edgeq.engine.base import Engine, EngineBackend
from edgeq.engine.onnxruntime import default_threads
from edgeq.engine.registry import DEFAULT
from edgeq.model.checkpoint.source import ModelSource
from edgeq.model.images.stream import ImageStream
from edgeq.quality.judged import Judged
from edgeq.quality.latency import DEFAULT_TIMING, Latency, Timing, measure_latency
from edgeq.quality.tasks.base import Examples, Figures, ImageTask, Outputs, Tally
from edgeq.quality.tasks.classification import Classification
from edgeq.quality.tasks.embedding import Fidelity
from edgeq.quality.tasks.registry import UNLABELLED, AnyFigures

__all__ = ["MOST_FURTHER", "Further", "Quality", "compare", "judge"]

QUALITY_VERSION: Final = "edgeq.quality/1"
LATENCY_BATCHES = (1, 64)

MOST_FURTHER: Final = 500
"""Labelled images, at most, that a further graph is judged on: it may run in floating point, which is slow."""
_FURTHER_BATCH: Final = 16
"""Images that go through it together: its tensors between layers are FP32, and are not to be the largest of all."""

Network = Callable[[NDArray[np.float32]], Outputs]
Batch = tuple[Sequence[str], NDArray[np.float32]]


@dataclass(frozen=True)
class Further:
    """A further graph of the same network, of which accuracy alone is asked.

    Attributes:
        path: the ONNX file.
        backend: that runs it.
    """

    path: Path
    backend: EngineBackend


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
    further: Sequence[Further],
    task: ImageTask[Any],
    examples: Examples[Any] | None,
    source: ModelSource,
    images: NDArray[np.float32],
    *,
    backend: EngineBackend = DEFAULT,
    threads: int | None = None,
    timing: Timing = DEFAULT_TIMING,
    advance: Callable[[int], None] | None = None,
    advance_further: Callable[[int], None] | None = None,
) -> tuple[Quality, tuple[Figures, ...]]:
    """Run both graphs in one backend and compare, and further graphs by accuracy alone.

    These see `MOST_FURTHER` of the labelled images at most. What FP32 answers is computed once, and one further graph
    is open at a time, after the others.

    Args:
        reference, candidate: ONNX files; the candidate was made from the reference and has its node names.
        further: the other graphs.
        task: what the networks are for.
        examples: labelled images; None leaves what is right unjudged.
        source: gives the class names and the preprocessing.
        images: real ones without labels, float32 [n, 3, H, W]; latency is measured on copies of the first. Without
            `examples`, the graphs' answers to them are compared.
        backend: that runs the reference and the candidate.
        threads: of one operator.
        timing: how long latency is measured.
        advance: called with the number of images just judged.
        advance_further: called with the number of images that a further graph has just seen.

    Returns:
        What was measured of the pair, and the figures of each further graph beside FP32.

    Raises:
        ImageError: examples and classes do not match, or too many images cannot be read.
        EngineError: a graph does not run.
    """
    threads = threads or default_threads()
    part = None if examples is None else examples.part(examples.images.sample(MOST_FURTHER))
    answered = _Answered({item.name for item in part.images.items} if part and further else ())
    figures, skipped = _compare(
        reference, candidate, task, examples, source, images, backend, threads, advance, answered if further else None
    )
    total = None if examples is None else len(examples)
    others = tuple(
        _further(each, task, part, total, source, images, answered, threads, advance_further) for each in further
    )
    found: dict[str, Any] = {"answers": None, (UNLABELLED if examples is None else task).key: figures}
    quality = Quality(
        backend=backend.version(),
        latency=tuple(
            _latency(reference, candidate, images[:1], batch, backend, threads, timing) for batch in LATENCY_BATCHES
        ),
        reference_bytes=reference.stat().st_size,
        candidate_bytes=candidate.stat().st_size,
        skipped=skipped,
        **found,
    )
    return quality, others


def compare(
    reference: Path,
    candidate: Path,
    task: ImageTask[Any],
    examples: Examples[Any] | None,
    source: ModelSource,
    images: NDArray[np.float32],
    *,
    backend: EngineBackend = DEFAULT,
    threads: int | None = None,
    advance: Callable[[int], None] | None = None,
) -> tuple[Figures, tuple[str, ...]]:
    """Run both graphs and compare their answers alone.

    Args:
        reference, candidate, task, examples, source, images, backend, threads, advance: as for `judge`.

    Returns:
        The figures, and the names of the labelled images that could not be read.
    """
    return _compare(
        reference, candidate, task, examples, source, images, backend, threads or default_threads(), advance, None
    )


class _Answered:
    """What FP32 answered to some images, by their names; to all of them where none is named."""

    def __init__(self, names: Collection[str]) -> None:
        self._wanted, self._rows = frozenset(names), dict[str, Outputs]()

    def add(self, names: Sequence[str], outputs: Outputs) -> None:
        for row, name in enumerate(names):
            if not self._wanted or name in self._wanted:
                self._rows[name] = tuple(output[row : row + 1].copy() for output in outputs)

    def of(self, names: Sequence[str]) -> Outputs:
        """As the network gave them, row i for image i."""
        return tuple(np.concatenate(rows) for rows in zip(*(self._rows[name] for name in names), strict=True))

    @property
    def classes(self) -> int:
        """Size of the last axis of the first output."""
        return int(next(iter(self._rows.values()))[0].shape[-1])


def _compare(
    reference: Path,
    candidate: Path,
    task: ImageTask[Any],
    examples: Examples[Any] | None,
    source: ModelSource,
    images: NDArray[np.float32],
    backend: EngineBackend,
    threads: int,
    advance: Callable[[int], None] | None,
    answered: _Answered | None,
) -> tuple[Figures, tuple[str, ...]]:
    if examples is None:
        return _unlabelled(reference, candidate, images, backend, threads, answered), ()
    return _labelled(reference, candidate, task, examples, source, images[:1], backend, threads, advance, answered)


def _further(
    graph: Further,
    task: ImageTask[Any],
    examples: Examples[Any] | None,
    total: int | None,
    source: ModelSource,
    images: NDArray[np.float32],
    answered: _Answered,
    threads: int,
    advance: Callable[[int], None] | None,
) -> Figures:
    """One further graph beside what FP32 answered; its engine dies with this frame."""
    tally: Tally
    if examples is None:
        task, tally = UNLABELLED, UNLABELLED.begin()
        batches: Iterator[Batch] = _pieces(images, UNLABELLED.batch)
    else:
        tally = task.tally(examples, source.labels, answered.classes)
        size = min(task.batch, _FURTHER_BATCH)
        stream = ImageStream(examples.images, source.preprocess, batch_size=size, total=total)
        batches = (([item.name for item in items], pixels) for items, pixels in stream)
    network = _network(graph.path, task, graph.backend, threads)
    for names, pixels in batches:
        tally.add(names, answered.of(names), network(pixels))
        if advance:
            advance(len(names))
    return tally.figures()


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
    answered: _Answered | None,
) -> tuple[Figures, tuple[str, ...]]:
    """The figures, and the names of the images that could not be read."""
    stream = ImageStream(examples.images, source.preprocess, batch_size=task.batch)
    ours, theirs = (_network(path, task, backend, threads) for path in (reference, candidate))
    tally = task.tally(examples, source.labels, ours(sample)[0].shape[-1])
    batches = (([item.name for item in items], pixels) for items, pixels in stream)
    return _compared(ours, theirs, batches, tally, advance, answered), tuple(image.name for image in stream.skipped)


def _unlabelled(
    reference: Path,
    candidate: Path,
    images: NDArray[np.float32],
    backend: EngineBackend,
    threads: int,
    answered: _Answered | None,
) -> Figures:
    """What both give for the same images, compared; the engines die with this frame."""
    ours, theirs = (_network(path, UNLABELLED, backend, threads) for path in (reference, candidate))
    return _compared(ours, theirs, _pieces(images, UNLABELLED.batch), UNLABELLED.begin(), None, answered)


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
    answered: _Answered | None,
) -> Figures:
    for names, pixels in batches:
        expected = reference(pixels)
        if answered is not None:
            answered.add(names, expected)
        tally.add(names, expected, candidate(pixels))
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
