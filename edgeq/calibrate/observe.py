"""Run the FP32 graph over images and count the values of every tensor that needs a scale."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgeq.calibrate.histogram import Histogram
from edgeq.engine.onnxruntime import OnnxRuntimeEngine, side_by_side
from edgeq.errors import CalibrationError
from edgeq.model.external_data import move_out

__all__ = ["Observer", "add_outputs", "with_outputs"]


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
    and the order in which images are counted does not matter. Memory does not grow with the number of images.

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
        self._engine, self._source = _open(graph, tensors, each)
        self._counting = Lock()
        self._inner = [name for name in tensors if name != self._source]
        self.histograms = histograms or {name: Histogram() for name in tensors}
        self.late = {name: Histogram() for name in tensors}

    def add(self, names: Sequence[str], pixels: NDArray[np.float32], apart: Collection[str] = ()) -> None:
        """Run and count a batch, float32 [n, ...], of images with these names; those in `apart` count in `late`.

        Raises:
            CalibrationError: a tensor holds NaN or infinity (named, with the image).
        """
        into = [self.late if name in apart else self.histograms for name in names]
        with ThreadPoolExecutor(self._together) as pool:
            for _ in pool.map(self._add_one, names, np.split(pixels, len(pixels)), into):
                pass  # raises what went wrong on the first image that something went wrong on

    def merged(self) -> dict[str, Histogram]:
        """The histograms of all images, those counted apart among them."""
        whole = {name: Histogram() for name in self.histograms}
        for name, histogram in whole.items():
            histogram.merge(self.histograms[name])
            histogram.merge(self.late[name])
        return whole

    def _add_one(self, name: str, image: NDArray[np.float32], into: Mapping[str, Histogram]) -> None:
        """Count one image's tensors; they die with this frame, before the next image makes its own."""
        values = {self._source: image, **self._engine.run({self._source: image}, self._inner)}
        for tensor, histogram in into.items():
            try:
                with self._counting:
                    histogram.add(values[tensor])
            except CalibrationError as error:
                raise CalibrationError(
                    f"tensor {tensor} is NaN or infinite on image {name}",
                    causes=(
                        "the network overflows on this image: wrong --mean/--std, or pixels not scaled to 0..1",
                        "the weights hold NaN",
                    ),
                    next_step="check preprocessor_config.json, or take the image out of the set",
                ) from error


def _open(graph: Path, tensors: Sequence[str], threads: int) -> tuple[OnnxRuntimeEngine, str]:
    """The graph with `tensors` as outputs, and its input's name.

    The weights go into a file of their own, which ONNX Runtime maps instead of copying.
    """
    model = onnx.load(graph)
    source = model.graph.input[0].name
    with tempfile.TemporaryDirectory() as directory:
        observed = Path(directory) / "observed.onnx"
        add_outputs(model, (name for name in tensors if name != source))
        location = f"{observed.name}.data"
        with (Path(directory) / location).open("wb") as file:
            move_out(model, location, file)
        observed.write_bytes(model.SerializeToString())
        del model
        return OnnxRuntimeEngine(observed, threads=threads, memory_pattern=False), source
