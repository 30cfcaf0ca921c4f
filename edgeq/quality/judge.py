"""Judge a quantized network against its FP32 source: answers, latency, size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
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
from edgeq.quality.tasks.embedding import Fidelity, OutputFidelity, OutputsTally
from edgeq.quality.tasks.registry import UNLABELLED, AnyFigures

__all__ = ["Quality", "judge"]

QUALITY_VERSION: Final = "edgeq.quality/1"
LATENCY_BATCHES = (1, 64)

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
        further: the outputs that are no answer to labelled images, each by itself; not written where there are none.
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
    further: tuple[OutputFidelity, ...] = ()
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
    further: tuple[OutputFidelity, ...] = ()
    if examples is None:
        task, figures = UNLABELLED, _unlabelled(reference, candidate, images, backend, threads)
    else:
        figures, further, skipped = _labelled(
            reference, candidate, task, examples, source, images[:1], backend, threads, advance
        )
    found: dict[str, Any] = {"answers": None, "further": further, task.key: figures}
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
) -> tuple[Figures, tuple[OutputFidelity, ...], tuple[str, ...]]:
    """The figures, those of outputs that are no answer, and the names of the images that could not be read."""
    stream = ImageStream(examples.images, source.preprocess, batch_size=task.batch)
    ours, theirs = (_network(path, task, backend, threads) for path in (reference, candidate))
    tally = _WithFurther(task.tally(examples, source.labels, ours(sample)[0].shape[-1]), ours)
    batches = (([item.name for item in items], pixels) for items, pixels in stream)
    figures = _compared(ours, theirs, batches, tally, advance)
    return figures, tally.further(), tuple(image.name for image in stream.skipped)


def _unlabelled(
    reference: Path, candidate: Path, images: NDArray[np.float32], backend: EngineBackend, threads: int
) -> Figures:
    """What both give for the same images, compared; the engines die with this frame."""
    ours, theirs = (_network(path, UNLABELLED, backend, threads) for path in (reference, candidate))
    return _compared(ours, theirs, _pieces(images, UNLABELLED.batch), UNLABELLED.begin(ours.answers), None)


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
) -> Figures:
    for names, pixels in batches:
        tally.add(names, reference(pixels), candidate(pixels))
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
