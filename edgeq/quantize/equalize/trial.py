"""What channel equalization is tried on: a graph, its plan, the places to fold at, and samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.calibrate.choices import AUTO
from edgeq.calibrate.samples import Array, Samples
from edgeq.calibrate.stage import hold_back
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.engine.outputs import OutputRows, comparable
from edgeq.export.parity import AllOutputs
from edgeq.plan.precision import ChannelEqualization, Precision, PrecisionPlan
from edgeq.quantize.equalize.channel_ranges import Range, channel_ranges
from edgeq.quantize.equalize.conv_points import find_conv_points
from edgeq.quantize.equalize.cross_layer import UNEVEN, cross_layer, unevenness
from edgeq.quantize.equalize.points import EqualizationPoint, PointLeft, find_points
from edgeq.quantize.equalize.repq import repq
from edgeq.quantize.equalize.rescale import Rescale, rescale
from edgeq.quantize.equalize.smoothquant import smooth

__all__ = ["UNTRIED", "TrialSetup", "int8_linears", "is_uneven", "trial_setup"]

_SAMPLES: Final = 32
"""So many calibration samples the channels are measured on, as in RepQ-ViT and PTQ4ViT."""

UNTRIED: Final = 0.5
"""SmoothQuant's strength where there is nothing to try it on: what the paper takes."""


def int8_linears(plan: PrecisionPlan) -> frozenset[str]:
    """Names of the linear layers that a plan has in INT8."""
    return frozenset(d.layer for d in plan.decisions if d.precision is Precision.INT8 and d.op in ("Gemm", "MatMul"))


def conv_places(
    model: onnx.ModelProto, plan: PrecisionPlan
) -> tuple[tuple[EqualizationPoint, ...], tuple[PointLeft, ...]]:
    """The points before INT8 convolutions, and the convolutions that are none."""
    convolutions = (d.layer for d in plan.decisions if d.precision is Precision.INT8 and d.op == "Conv")
    return find_conv_points(model, frozenset(convolutions))


def is_uneven(model: onnx.ModelProto, plan: PrecisionPlan) -> bool:
    """Whether some channel between convolutions is so far from the others that it spoils their grid."""
    return unevenness(model, conv_places(model, plan)[0]) > UNEVEN


@dataclass(frozen=True)
class TrialSetup:
    """A graph, its plan, and samples to try on.

    Attributes:
        model: FP32, every node named.
        plan: for that graph; what it has in INT8 is what is tried.
        samples: calibration images or captions.
        held_back: others than those, each [1, ...]; None where there are too few to try anything.
        threads: of one operator.
    """

    model: onnx.ModelProto
    plan: PrecisionPlan
    samples: Samples
    held_back: tuple[Array, ...] | None
    threads: int | None = None

    @cached_property
    def places(self) -> tuple[tuple[EqualizationPoint, ...], tuple[PointLeft, ...]]:
        """The points before INT8 linear layers, and the layers that are none."""
        return find_points(self.model, self.samples.sizes, self.layers)

    @cached_property
    def conv_places(self) -> tuple[tuple[EqualizationPoint, ...], tuple[PointLeft, ...]]:
        """The points before INT8 convolutions, and the convolutions that are none."""
        return conv_places(self.model, self.plan)

    @cached_property
    def uneven(self) -> bool:
        """As `is_uneven`."""
        return is_uneven(self.model, self.plan)

    @cached_property
    def layers(self) -> frozenset[str]:
        """Names of the INT8 linear layers."""
        return int8_linears(self.plan)

    @property
    def normalized(self) -> bool:
        """Whether a normalization is among the points: what a network without one has there is left to whoever asks."""
        return bool(self.layers) and any(point.kind == "normalization" for point in self.places[0])

    @cached_property
    def some(self) -> Samples:
        """The calibration samples that channels are measured on."""
        return self.samples.sample(min(_SAMPLES, len(self.samples)))

    def run(self, model: onnx.ModelProto) -> NDArray[np.float32]:
        """A graph's answers to the samples held back, each run by itself: float32 [n, numbers], see `OutputRows`."""
        return self._rows(self._answers(model)).astype(np.float32)

    def network(self, model: onnx.ModelProto) -> AllOutputs:
        """A graph as a function of a batch."""
        engine = OnnxRuntimeEngine(model.SerializeToString(), threads=self.threads, memory_pattern=False)

        def run(batch: NDArray[Any]) -> tuple[NDArray[Any], ...]:
            made = engine.run({engine.inputs[0]: batch})
            return tuple(made[name] for name in engine.outputs)

        return run

    def _answers(self, model: onnx.ModelProto) -> list[tuple[NDArray[Any], ...]]:
        assert self.held_back is not None
        network = self.network(model)
        return [comparable(network(sample)) for sample in self.held_back]

    @cached_property
    def _answered(self) -> list[tuple[NDArray[Any], ...]]:
        return self._answers(self.model)

    @cached_property
    def _rows(self) -> OutputRows:
        return OutputRows(self._answered)

    @cached_property
    def reference(self) -> NDArray[np.float32]:
        """FP32's answers to the samples held back, as `run` gives them, float32 [n, numbers]."""
        return self._rows(self._answered).astype(np.float32)

    @cached_property
    def ranges(self) -> dict[str, Range]:
        """The ranges of the channels of each point."""
        arrays = self.some.arrays([], len(self.samples))
        return channel_ranges(self.model, self.places[0], (array for _, array in arrays), threads=self.threads)

    def folded(self, fold: ChannelEqualization) -> tuple[onnx.ModelProto, tuple[Rescale, ...]]:
        """The graph after a way was taken, and what that did at each point, a point once for each step of the way."""
        if fold == "cle":
            changes = cross_layer(self.model, self.conv_places[0])
            return rescale(self.model, changes), changes
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
    model: onnx.ModelProto, plan: PrecisionPlan, samples: Samples, *, threads: int | None = None
) -> TrialSetup:
    """A setup that holds back what `auto` of the calibration does: ways are tried on the samples that methods are.

    Args:
        model: FP32, every node named.
        plan: for that graph.
        samples: the calibration set.
        threads: of one operator; None takes every processor there is.
    """
    counted, held = hold_back(samples, AUTO)
    arrays = tuple(array for _, array in held.arrays([])) if held is not None else ()
    return TrialSetup(model, plan, counted, arrays or None, threads)
