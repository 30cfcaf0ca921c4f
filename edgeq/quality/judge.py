"""Judge a quantized network against its FP32 source: answers, latency, size."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, NamedTuple

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
from edgeq.quality.tasks.base import Examples, Figures, Headline, ImageTask, Outputs, Tally, UnlabelledTask
from edgeq.quality.tasks.classification import Classification
from edgeq.quality.tasks.embedding import Fidelity, OutputFidelity, OutputsTally
from edgeq.quality.tasks.registry import AnyFigures, unlabelled

__all__ = ["MOST_FURTHER", "Further", "Quality", "compare", "compare_preprocessing", "judge"]

QUALITY_VERSION: Final = "edgeq.quality/1"

MOST_FURTHER: Final = 500
"""Labelled images, at most, that a further graph is judged on: it may run in floating point, which is slow."""
_FURTHER_BATCH: Final = 16
"""Images that go through it together: its tensors between layers are FP32, and are not to be the largest of all."""

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
        further: the outputs that are no answer to labelled images, each by itself; not written where there are none.
        figures: of another task on labelled images; else None, and not written.
    """

    otherwise = "holds no quality figures"
    later: ClassVar[tuple[str, ...]] = ("figures", "further")

    version: Literal["edgeq.quality/1"] = QUALITY_VERSION
    backend: str
    answers: Classification | None
    fidelity: Fidelity | None = None
    latency: tuple[Latency, ...]
    reference_bytes: int
    candidate_bytes: int
    skipped: tuple[str, ...] = ()
    further: tuple[OutputFidelity, ...] = ()
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
    compared = _compare(
        reference, candidate, task, examples, source, images, backend, threads, advance, answered if further else None
    )
    total = None if examples is None else len(examples)
    others = tuple(
        _further(each, task, part, total, source, images, answered, threads, advance_further) for each in further
    )
    judged_as = unlabelled(task) if examples is None else task
    found: dict[str, Any] = {"answers": None, "further": compared.further, judged_as.key: compared.figures}
    quality = Quality(
        backend=backend.version(),
        latency=tuple(
            _latency(reference, candidate, images[:1], batch, backend, threads, timing)
            for batch in judged_as.latency_batches
        ),
        reference_bytes=reference.stat().st_size,
        candidate_bytes=candidate.stat().st_size,
        skipped=compared.skipped,
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
    threads = threads or default_threads()
    found = _compare(reference, candidate, task, examples, source, images, backend, threads, advance, None)
    return found.figures, found.skipped


class _Comparison(NamedTuple):
    """What was compared: the figures, those of outputs that are no answer, and labelled images that cannot be read."""

    figures: Figures
    further: tuple[OutputFidelity, ...] = ()
    skipped: tuple[str, ...] = ()


class _Answered:
    """What FP32 answered to some images, by their names; to all of them where none is named."""

    def __init__(self, names: Collection[str]) -> None:
        self._wanted, self._rows = frozenset(names), dict[str, Outputs]()

    def add(self, names: Sequence[str], outputs: Outputs) -> None:
        for row, name in enumerate(names):
            if not self._wanted or name in self._wanted:
                alone = len(names) == 1  # a list of what was found has a length of its own
                self._rows[name] = tuple((output if alone else output[row : row + 1]).copy() for output in outputs)

    def of(self, names: Sequence[str]) -> Outputs:
        """As the network gave them, row i for image i."""
        if len(names) == 1:
            return self._rows[names[0]]
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
) -> _Comparison:
    if examples is None:
        return _Comparison(_unlabelled(reference, candidate, unlabelled(task), images, backend, threads, answered))
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
    if examples is None:
        alone = unlabelled(task)
        network = _network(graph.path, alone, graph.backend, threads)
        tally, batches = alone.begin(network.answers), _pieces(images, alone.batch)
    else:
        network = _network(graph.path, task, graph.backend, threads)
        tally = task.tally(examples, source.labels, answered.classes)
        size = min(task.batch, _FURTHER_BATCH)
        stream = ImageStream(examples.images, source.preprocess, batch_size=size, total=total)
        batches = (([item.name for item in items], pixels) for items, pixels in stream)
    for names, pixels in batches:
        tally.add(names, answered.of(names), network(pixels)[: network.wanted])
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
) -> _Comparison:
    stream = ImageStream(examples.images, source.preprocess, batch_size=task.batch)
    ours, theirs = (_network(path, task, backend, threads) for path in (reference, candidate))
    tally = _WithFurther(task.tally(examples, source.labels, ours(sample)[0].shape[-1]), ours)
    batches = (([item.name for item in items], pixels) for items, pixels in stream)
    figures = _compared(ours, theirs, batches, tally, advance, answered)
    return _Comparison(figures, tally.further(), tuple(image.name for image in stream.skipped))


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
        given, names = network(pixels)[: network.wanted], [item.name for item in items]
        for place, other in enumerate(others):
            if place not in tallies:
                tallies[place] = task.tally(examples, source.labels, given[0].shape[-1])
            try:
                made = network(source.preprocess.converted(pixels, other))
                tallies[place].add(names, given, made[: network.wanted])
            except EngineError:
                failed.add(place)
    return tuple(
        tallies[place].figures().headline() if place in tallies and place not in failed else None
        for place in range(len(others))
    )


def _unlabelled(
    reference: Path,
    candidate: Path,
    task: UnlabelledTask,
    images: NDArray[np.float32],
    backend: EngineBackend,
    threads: int,
    answered: _Answered | None,
) -> Figures:
    """What both give for the same images, compared; the engines die with this frame."""
    ours, theirs = (_network(path, task, backend, threads) for path in (reference, candidate))
    return _compared(ours, theirs, _pieces(images, task.batch), task.begin(ours.answers), None, answered)


def _pieces(images: NDArray[np.float32], size: int) -> Iterator[Batch]:
    for start in range(0, len(images), size):
        piece = images[start : start + size]
        yield [str(start + place) for place in range(len(piece))], piece


def _compared(
    reference: _Network,
    candidate: _Network,
    batches: Iterable[Batch],
    tally: Tally,
    advance: Callable[[int], None] | None,
    answered: _Answered | None,
) -> Figures:
    for names, pixels in batches:
        expected = reference(pixels)
        if answered is not None:
            answered.add(names, expected[: reference.wanted])
        tally.add(names, expected, candidate(pixels))
        if advance:
            advance(len(names))
    return tally.figures()


@dataclass(frozen=True)
class _Network:
    """A graph that is run, which gives what the task wants and then the other outputs.

    Attributes:
        answers: the outputs that are the answer.
        features: what enters the head, behind them; none where the task wants none.
        further: the other outputs.
    """

    engine: Engine
    answers: tuple[str, ...]
    features: tuple[str, ...] = ()
    further: tuple[str, ...] = ()

    @property
    def wanted(self) -> int:
        """How many of the outputs the task wants."""
        return len(self.answers) + len(self.features)

    def __call__(self, pixels: NDArray[np.float32]) -> Outputs:
        """What it gives for images [n, 3, H, W]."""
        names = (*self.answers, *self.features, *self.further)
        values = self.engine.run({self.engine.inputs[0]: pixels}, tuple(dict.fromkeys(names)))
        return tuple(values[name] for name in names)


class _WithFurther:
    """A task's tally, and beside it what the outputs that are no answer come to."""

    def __init__(self, tally: Tally, network: _Network) -> None:
        self._tally, self._wanted = tally, network.wanted
        self._further = OutputsTally(network.further) if network.further else None

    def add(self, names: Sequence[str], reference: Outputs, candidate: Outputs) -> None:
        wanted = self._wanted
        self._tally.add(names, reference[:wanted], candidate[:wanted])
        if self._further is not None:
            self._further.add(reference[wanted:], candidate[wanted:], len(names))

    def figures(self) -> Figures:
        return self._tally.figures()

    def further(self) -> tuple[OutputFidelity, ...]:
        return () if self._further is None else self._further.figures()


def _network(path: Path, task: ImageTask[Any], backend: EngineBackend, threads: int) -> _Network:
    """The graph in `path`, with its features where the task wants them."""
    if task.features:
        return _with_features(path, task, backend, threads)
    engine = backend.open(path, threads=threads)
    answers = task.outputs(engine.outputs)
    return _Network(engine, answers, further=_others(engine.outputs, answers))


def _others(outputs: Sequence[str], answers: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in outputs if name not in answers)


def _with_features(path: Path, task: ImageTask[Any], backend: EngineBackend, threads: int) -> _Network:
    """What enters the answer's head stands behind the answer: the answer itself again where there is no head."""
    import onnx

    from edgeq.calibrate.observe import with_outputs
    from edgeq.model.graph.components import head_nodes
    from edgeq.model.graph.element_types import element_types

    model = onnx.load(path)
    outputs = [output.name for output in model.graph.output]
    answers = task.outputs(outputs)
    heads = head_nodes(model, answers[:1])
    features = next((node.input[0] for node in model.graph.node if node.name in heads[:1]), answers[0])
    if element_types(model).get(features) == onnx.TensorProto.FLOAT16:
        widened = f"{features}.widened"
        model.graph.node.append(onnx.helper.make_node("Cast", [features], [widened], to=onnx.TensorProto.FLOAT))
        features = widened
    engine = backend.open(with_outputs(model, [features]).SerializeToString(), threads=threads)
    return _Network(engine, answers, (features,), _others(outputs, answers))


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
