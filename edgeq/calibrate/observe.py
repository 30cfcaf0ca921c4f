"""Run the FP32 graph over samples and count the values of every tensor that needs a scale."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgeq.calibrate.histogram import Histogram
from edgeq.calibrate.samples import Array
from edgeq.engine.onnxruntime import OnnxRuntimeEngine, side_by_side
from edgeq.errors import CalibrationError
from edgeq.model.graph.external_data import gather
from edgeq.model.graph.outline import load_outline

__all__ = ["Arrival", "Observer", "add_outputs", "open_observed", "with_outputs"]

Arrival = tuple[str, Array, bool]
"""A sample's name, its array [1, ...], and whether it counts in `late`."""


def with_outputs(model: onnx.ModelProto, tensors: Iterable[str]) -> onnx.ModelProto:
    """A copy of `model` that also gives `tensors` (float32) as outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    add_outputs(copy, tensors)
    return copy


def add_outputs(model: onnx.ModelProto, tensors: Iterable[str]) -> None:
    """Let `model` itself give `tensors` (float32) as outputs, too."""
    present = {output.name for output in model.graph.output}
    for name in tensors:
        if name not in present:
            model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))


class Observer:
    """An FP32 graph that counts what its tensors hold.

    The network is always run on one image at a time: a kernel may round differently at another batch size, and then
    the scales would depend on it. Two images are under way together, since counting cannot use more than one processor
    and the order in which images are counted does not matter; one tensor is counted by one of them at a time. Memory
    does not grow with the number of images.

    Args:
        graph: FP32 ONNX file with one input [batch, ...].
        tensors: names of tensors inside it, its input among them.
        histograms: counts to go on from; empty ones where None.
        threads: processors to use; None takes every one there is.

    Attributes:
        histograms: one for each tensor.
        late: the same for images counted apart, see `add`.
    """

    def __init__(
        self,
        graph: Path,
        tensors: Sequence[str],
        *,
        histograms: dict[str, Histogram] | None = None,
        threads: int | None = None,
    ) -> None:
        self._together, each = side_by_side(threads)
        self._engine = open_observed(graph, tensors, threads=each)
        self._source = self._engine.inputs[0]
        self._counting = {name: Lock() for name in tensors}
        self._inner = [name for name in tensors if name != self._source]
        self.histograms = histograms or {name: Histogram() for name in tensors}
        self.late = {name: Histogram() for name in tensors}

    def add(self, names: Sequence[str], pixels: NDArray[np.float32], apart: Collection[str] = ()) -> None:
        """Run and count a batch of images.

        Args:
            names: of the images.
            pixels: float32 [n, ...], row i of image i.
            apart: names of those that count in `late`.

        Raises:
            CalibrationError: a tensor holds NaN or infinity (named, with the image).
        """
        singles = zip(names, np.split(pixels, len(pixels)), strict=True)
        for _ in self.count((name, image, name in apart) for name, image in singles):
            pass

    def count(self, images: Iterable[Arrival]) -> Iterator[str]:
        """Run and count images as they come; gives each one's name, in order, once it is counted.

        As many wait as are under way, and no processor waits for a batch to end. After the last name, and not before,
        no image is counted in part.

        Raises:
            CalibrationError: as for `add`.
        """
        waiting: deque[Future[str]] = deque()
        with ThreadPoolExecutor(self._together) as pool:
            for name, pixels, late in images:
                waiting.append(pool.submit(self._add_one, name, pixels, self.late if late else self.histograms))
                if len(waiting) == 2 * self._together:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def take(self) -> tuple[dict[str, Histogram], dict[str, Histogram]]:
        """What `histograms` and `late` hold; both are empty afterwards."""
        taken = self.histograms, self.late
        self.histograms = {name: Histogram() for name in taken[0]}
        self.late = {name: Histogram() for name in taken[1]}
        return taken

    def _add_one(self, name: str, image: Array, into: Mapping[str, Histogram]) -> str:
        """Count one image's tensors; they die with this frame, before the next image makes its own."""
        values = {self._source: image, **self._engine.run({self._source: image}, self._inner)}
        for tensor, histogram in into.items():
            try:
                with self._counting[tensor]:
                    histogram.add(values[tensor])
            except CalibrationError as error:
                raise CalibrationError(
                    f"tensor {tensor} is NaN or infinite on {name}",
                    causes=(
                        "the network overflows on it: wrong --mean/--std, or pixels not scaled to 0..1",
                        "the weights hold NaN",
                    ),
                    next_step="check preprocessor_config.json, or take it out of the set",
                ) from error
        return name


def open_observed(graph: Path, tensors: Iterable[str] = (), *, threads: int) -> OnnxRuntimeEngine:
    """An FP32 file in ONNX Runtime, which gives `tensors`, too, where they are not the graph's input.

    The weights go into a file of their own, which ONNX Runtime maps instead of copying.

    Args:
        graph: FP32 ONNX file.
        tensors: names; those of the graph's inputs are passed over.
        threads: of one run.
    """
    model = load_outline(graph)
    given = {value.name for value in model.graph.input}
    add_outputs(model, (name for name in tensors if name not in given))
    with tempfile.TemporaryDirectory() as directory:
        opened = Path(directory) / "opened.onnx"
        location = f"{opened.name}.data"
        with (Path(directory) / location).open("wb") as file:
            gather(model, graph, location, file)
        opened.write_bytes(model.SerializeToString())
        return OnnxRuntimeEngine(opened, threads=threads, memory_pattern=False)
