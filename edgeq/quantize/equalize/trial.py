"""What channel equalization are tried on: a graph, its plan, the places to fold at, and images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.calibrate.stage import AUTO, hold_back
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.export.parity import Network
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.preprocess import Preprocess
from edgeq.model.images.stream import ImageStream
from edgeq.plan.precision import ChannelEqualization, Precision, PrecisionPlan
from edgeq.quantize.equalize.channel_ranges import Range, channel_ranges
from edgeq.quantize.equalize.points import EqualizationPoint, PointLeft, find_points
from edgeq.quantize.equalize.repq import repq
from edgeq.quantize.equalize.rescale import Rescale, rescale
from edgeq.quantize.equalize.smoothquant import smooth

__all__ = ["UNTRIED", "TrialSetup", "int8_linears", "trial_setup"]

_IMAGES: Final = 32
"""So many calibration images the channels are measured on, as in RepQ-ViT and PTQ4ViT."""

UNTRIED: Final = 0.5
"""SmoothQuant's strength where there is nothing to try it on: what the paper takes."""


def int8_linears(plan: PrecisionPlan) -> frozenset[str]:
    """Names of the linear layers that a plan has in INT8."""
    return frozenset(d.layer for d in plan.decisions if d.precision is Precision.INT8 and d.op in ("Gemm", "MatMul"))


@dataclass(frozen=True)
class TrialSetup:
    """A graph, its plan, and images to try on.

    Attributes:
        model: FP32, every node named.
        plan: for that graph; what it has in INT8 is what is tried.
        images: calibration images.
        held_back: float32 [n, 3, H, W], others than those; None where there are too few to try anything.
        preprocess: from an image to the graph's input.
        threads: of one operator.
    """

    model: onnx.ModelProto
    plan: PrecisionPlan
    images: ImageSet
    held_back: NDArray[np.float32] | None
    preprocess: Preprocess
    threads: int | None = None

    @cached_property
    def places(self) -> tuple[tuple[EqualizationPoint, ...], tuple[PointLeft, ...]]:
        """The points before INT8 linear layers, and the layers that are none."""
        return find_points(self.model, (self.preprocess.height, self.preprocess.width), self.layers)

    @cached_property
    def layers(self) -> frozenset[str]:
        """Names of the INT8 linear layers."""
        return int8_linears(self.plan)

    @property
    def normalized(self) -> bool:
        """Whether a normalization is among the points: what a network without one has there is left to whoever asks."""
        return any(point.kind == "normalization" for point in self.places[0])

    @cached_property
    def some(self) -> ImageSet:
        """The calibration images that channels are measured on."""
        return self.images.sample(min(_IMAGES, len(self.images)))

    def run(self, model: onnx.ModelProto) -> NDArray[np.float32]:
        """Logits of a graph on the images held back, each run by itself: float32 [n, classes]."""
        assert self.held_back is not None
        network = self.network(model)
        return np.concatenate([network(image) for image in np.split(self.held_back, len(self.held_back))])

    def network(self, model: onnx.ModelProto) -> Network:
        """A graph as a function of a batch."""
        engine = OnnxRuntimeEngine(model.SerializeToString(), threads=self.threads, memory_pattern=False)
        return lambda pixels: engine.run({engine.inputs[0]: pixels})[engine.outputs[0]]

    @cached_property
    def reference(self) -> NDArray[np.float32]:
        """FP32's logits on the images held back."""
        return self.run(self.model)

    @cached_property
    def ranges(self) -> dict[str, Range]:
        """The ranges of the channels of each point."""
        stream = ImageStream(self.some, self.preprocess, batch_size=8, total=len(self.images))
        return channel_ranges(self.model, self.places[0], (batch for _, batch in stream), threads=self.threads)

    def folded(self, fold: ChannelEqualization) -> tuple[onnx.ModelProto, tuple[Rescale, ...]]:
        """The graph after a way was taken, and what that did at each point, a point once for each step of the way."""
        model, ranges = self.model, self.ranges
        done: tuple[Rescale, ...] = ()
        for step in (step for step in fold.split("-") if step != "none"):
            changes = self._step(step, model, ranges)
            model = rescale(model, changes)
            ranges = ranges | {change.point.name: change.applied(ranges[change.point.name]) for change in changes}
            done = (*done, *changes)
        return model, done

    def _step(self, step: str, model: onnx.ModelProto, ranges: Mapping[str, Range]) -> tuple[Rescale, ...]:
        points, _ = self.places
        if step == "repq":
            return repq(points, ranges)
        return smooth(model, points, ranges, self.layers, float(step.partition(":")[2] or UNTRIED))


def trial_setup(
    model: onnx.ModelProto, plan: PrecisionPlan, images: ImageSet, preprocess: Preprocess, *, threads: int | None
) -> TrialSetup:
    """A setup that holds back what `auto` of the calibration does: ways are tried on the images that methods are.

    Args:
        model: FP32, every node named.
        plan: for that graph.
        images: the calibration set.
        preprocess: from an image to the graph's input.
        threads: of one operator; None takes every processor there is.
    """
    counted, held = hold_back(images, preprocess, AUTO)
    batches = [batch for _, batch in ImageStream(held, preprocess, batch_size=16)] if held else []
    return TrialSetup(model, plan, counted, np.concatenate(batches) if batches else None, preprocess, threads)
