"""Run every variant of a graph on some images, without running the whole graph for any.

The unchanged graph is run from cut to cut, and of it only the tensor at the present cut is kept. A variant starts from
that tensor, and what comes behind its own pieces is the unchanged graph again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, groupby

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.calibrate.observe import with_outputs
from edgeq.calibrate.samples import Array
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.quantize.search.pieces import Cut, Cutter
from edgeq.quantize.search.variants import Variant

__all__ = ["Runner", "Track", "bytes_at_cuts", "in_order", "together"]

Logits = NDArray[np.float32]
Network = Future[Callable[[Array, Array], NDArray[np.float32]]]
"""What a piece makes of a batch at a cut, and of the samples behind that."""

Batches = Sequence[Future[Array]]

_BATCH = 16
"""Always the same, because a kernel may round differently at another batch size."""
_AHEAD = 2
"""So many variants are opened while those before them still run."""


def in_order(samples: Iterable[Array]) -> list[Array]:
    """Samples [1, ...] in batches of neighbours of one shape: their order stays."""
    found: list[Array] = []
    for _, alike in groupby(samples, key=np.shape):
        values = np.concatenate(list(alike))
        found += [values[start : start + _BATCH] for start in range(0, len(values), _BATCH)]
    return found


def together(samples: Iterable[Array]) -> list[Array]:
    """Samples [1, ...] in batches, those of one shape side by side; where all have one they stay in order."""
    return in_order(sorted(samples, key=np.shape))


class Runner:
    """Runs pieces of a graph, a batch on each thread, while the next piece is being made.

    Threads within an operator would spin between runs, and slow down whatever other graph is run then.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="edgeq-sweep")

    def __enter__(self) -> Runner:
        """The runner itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Start no further job, and wait for those that run."""
        self._pool.shutdown(cancel_futures=True)

    def begin(self, batches: Sequence[Array]) -> Batches:
        """Batches that are there already."""
        given = [Future[Array]() for _ in batches]
        for future, batch in zip(given, batches, strict=True):
            future.set_result(batch)
        return given

    def open(self, model: onnx.ModelProto) -> Network:
        """A piece, soon."""
        return self._pool.submit(_open, model.SerializeToString())  # so that the model itself is let go at once

    def run(self, network: Network, batches: Batches, samples: Sequence[Array]) -> Batches:
        """What a network makes of each batch, as soon as both are there.

        Jobs start in the order in which they were given, so one that is waited for is always running already.

        Args:
            network: of `open`.
            batches: what lies at its source.
            samples: what these were made of, in the same batches, or more of them.
        """

        def job(batch: Future[Array], sample: Array) -> Array:
            return network.result()(batch.result(), sample)

        return [self._pool.submit(job, batch, sample) for batch, sample in zip(batches, samples, strict=False)]


def _open(model: bytes) -> Callable[[Array, Array], NDArray[np.float32]]:
    """The piece as a function of a batch and the samples behind it."""
    engine = OnnxRuntimeEngine(model, threads=1)
    (source, *given), target = engine.inputs, engine.outputs[0]
    return lambda batch, sample: engine.run({source: batch, **dict.fromkeys(given, sample)})[target]


@dataclass(frozen=True)
class Track:
    """The unchanged graph and its variants.

    Attributes:
        network: the graph, FP32 or INT8.
        cuts: those of its cuts that variants may start from or end at.
        variants: in the graph's order.
        make: the model of a variant.
        runner: runs all of them.
    """

    network: Cutter
    cuts: tuple[Cut, ...]
    variants: tuple[Variant, ...]
    make: Callable[[Variant], onnx.ModelProto]
    runner: Runner

    def sweep(
        self, samples: Sequence[Array], wanted: Mapping[str, int], advance: Callable[[int], None]
    ) -> tuple[Logits, dict[str, Logits]]:
        """Logits, float32 [n, classes], of the unchanged graph, and of the variants by layer.

        Args:
            samples: what the graph is given, in batches [n, ...] as `in_order` or `together` makes them.
            wanted: of which layers, and on how many of these samples from the first on; all of them where it is more.
            advance: called with the number of samples after each variant.
        """
        here, values, behind = self.cuts[0].tensor, self.runner.begin(samples), _Behind(self, samples)
        ends = list(accumulate(map(len, samples)))
        logits: dict[str, Logits] = {}
        running: deque[tuple[str, Batches]] = deque()

        def finish(most: int) -> None:
            while len(running) > most:
                layer, batches = running.popleft()
                logits[layer] = _joined(batches)[: wanted[layer]]
                advance(len(logits[layer]))

        for variant in [variant for variant in self.variants if wanted.get(variant.layer, 0) > 0]:
            values, here = self._walk(here, variant.source, values, samples), variant.source
            few = values[: bisect_left(ends, wanted[variant.layer]) + 1]
            reached = self.runner.run(self.runner.open(self.make(variant)), few, samples)
            running.append((variant.layer, behind.run(variant.target, reached)))
            finish(_AHEAD)
        finish(0)
        return _joined(behind.run(here, values)), logits

    def _walk(self, here: str, there: str, values: Batches, samples: Sequence[Array]) -> Batches:
        """The unchanged graph between two cuts."""
        if here == there:
            return values
        piece = self.network.extract(here, _stored(self.network.model, there))
        return self.runner.run(self.runner.open(piece), values, samples)


class _Behind:
    """The unchanged graph from a cut to the logits; the one used last stays open."""

    def __init__(self, track: Track, samples: Sequence[Array]) -> None:
        self._track, self._samples = track, samples
        self._logits = track.cuts[-1].tensor
        self._opened: dict[str, Network] = {}

    def run(self, cut: str, values: Batches) -> Batches:
        """Logits of each batch."""
        if cut == self._logits:
            return values
        if cut not in self._opened:
            self._opened = {cut: self._track.runner.open(self._track.network.extract(cut, self._logits))}
        return self._track.runner.run(self._opened[cut], values, self._samples)


def _joined(batches: Batches) -> NDArray[np.float32]:
    return np.concatenate([batch.result() for batch in batches])


def bytes_at_cuts(network: Cutter, sample: Array) -> int:
    """Size of the largest tensor at a cut for one sample, [1, ...] as the graph takes it."""
    tensors = [cut.tensor for cut in network.cuts[1:]]
    engine = OnnxRuntimeEngine(with_outputs(network.model, tensors).SerializeToString())
    values = engine.run({engine.inputs[0]: sample})
    return max(sample.nbytes, *(value.nbytes for value in values.values()))


def _stored(model: onnx.ModelProto, tensor: str) -> str:
    """What is read of a tensor: behind its QuantizeLinear and DequantizeLinear where nothing else reads it."""
    name = tensor
    for op in ("QuantizeLinear", "DequantizeLinear"):
        readers = [node for node in model.graph.node if name in node.input]
        if len(readers) != 1 or readers[0].op_type != op:
            return tensor
        name = readers[0].output[0]
    return name
