"""What channel folds are tried on: a graph, its plan, the places to fold at, and images."""

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
from edgeq.model.images import ImageSet
from edgeq.model.preprocess import Preprocess
from edgeq.model.stream import ImageStream
from edgeq.plan.precision import ChannelFold, Precision, PrecisionPlan
from edgeq.quantize.channel_ranges import Range, channel_ranges
from edgeq.quantize.repq import repq
from edgeq.quantize.rescale import Rescale, rescale
from edgeq.quantize.sites import Left, Site, find_sites
from edgeq.quantize.smooth import smooth

__all__ = ["UNTRIED", "Bench", "fold_bench", "int8_linears"]

_IMAGES: Final = 32
"""So many calibration images the channels are measured on, as in RepQ-ViT and PTQ4ViT."""

UNTRIED: Final = 0.5
"""SmoothQuant's strength where there is nothing to try it on: what the paper takes."""


def int8_linears(plan: PrecisionPlan) -> frozenset[str]:
    """Names of the linear layers that a plan has in INT8."""
    return frozenset(d.layer for d in plan.decisions if d.precision is Precision.INT8 and d.op in ("Gemm", "MatMul"))


@dataclass(frozen=True)
class Bench:
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
    def places(self) -> tuple[tuple[Site, ...], tuple[Left, ...]]:
        """The sites before INT8 linear layers, and the layers that are none."""
        return find_sites(self.model, (self.preprocess.height, self.preprocess.width), self.layers)

    @cached_property
    def layers(self) -> frozenset[str]:
        """Names of the INT8 linear layers."""
        return int8_linears(self.plan)

    @property
    def normalized(self) -> bool:
        """Whether a normalization is among the sites: what a network without one has there is left to whoever asks."""
        return any(site.kind == "normalization" for site in self.places[0])

    @cached_property
    def some(self) -> ImageSet:
        """The calibration images that channels are measured on."""
        return self.images.sample(min(_IMAGES, len(self.images)))

    def run(self, model: onnx.ModelProto) -> NDArray[np.float32]:
        """Logits of a graph on the images held back, each run by itself."""
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
        """The ranges of the channels of each site."""
        stream = ImageStream(self.some, self.preprocess, batch_size=8, total=len(self.images))
        return channel_ranges(self.model, self.places[0], (batch for _, batch in stream), threads=self.threads)

    def folded(self, fold: ChannelFold) -> tuple[onnx.ModelProto, tuple[Rescale, ...]]:
        """The graph after a way was taken, and what that did at each site, a site once for each step of the way."""
        model, ranges = self.model, self.ranges
        done: tuple[Rescale, ...] = ()
        for step in (step for step in fold.split("-") if step != "none"):
            changes = self._step(step, model, ranges)
            model = rescale(model, changes)
            ranges = ranges | {change.site.name: change.applied(ranges[change.site.name]) for change in changes}
            done = (*done, *changes)
        return model, done

    def _step(self, step: str, model: onnx.ModelProto, ranges: Mapping[str, Range]) -> tuple[Rescale, ...]:
        sites, _ = self.places
        if step == "repq":
            return repq(sites, ranges)
        return smooth(model, sites, ranges, self.layers, float(step.partition(":")[2] or UNTRIED))


def fold_bench(
    model: onnx.ModelProto, plan: PrecisionPlan, images: ImageSet, preprocess: Preprocess, *, threads: int | None
) -> Bench:
    """A bench that holds back what `auto` of the calibration does: ways are tried on the images that methods are."""
    counted, held = hold_back(images, preprocess, AUTO)
    batches = [batch for _, batch in ImageStream(held, preprocess, batch_size=16)] if held else []
    return Bench(model, plan, counted, np.concatenate(batches) if batches else None, preprocess, threads)
