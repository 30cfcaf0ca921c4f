"""How much each layer matters: its effect when it alone is INT8, and what is gained when it alone is not.

Two tables over one set of images:

- `alone`: an FP32 network in which one layer, and the activation that it applies, is INT8;
- `released`: the INT8 network with that layer in floating point. The tensors around it are still stored in INT8 where a
  neighbour reads or writes integers, so what is gained is mostly the rounding of its weights.

No whole network is run for a layer (`edgeq.quantize.search.sweep`), and a layer sees only as many images as its figure
needs (`edgeq.quantize.search.racing`). Every layer sees the same images in the same order, so layers are compared in
pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Final, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from edgeq.artifact import Artifact
from edgeq.calibrate.samples import Array, Samples
from edgeq.calibrate.scales import Scales
from edgeq.engine.onnxruntime import default_threads
from edgeq.errors import ImageError, QuantizeError
from edgeq.plan.precision import Decision, PrecisionPlan
from edgeq.quality.logits import LogitFigures
from edgeq.quantize.int8.base import Lowering
from edgeq.quantize.int8.pixels import PixelInput
from edgeq.quantize.int8.qdq import many_lowerings
from edgeq.quantize.int8.registry import USUAL
from edgeq.quantize.int8.verify import int8_layers
from edgeq.quantize.search.bounds import RaceBounds
from edgeq.quantize.search.portions import FIRST_ROUND, Portions
from edgeq.quantize.search.racing import Race
from edgeq.quantize.search.sweep import Runner, bytes_at_cuts
from edgeq.quantize.search.variants import Workbench

__all__ = ["TABLE", "LayerSensitivity", "Sensitivity", "measure_sensitivity"]

SENSITIVITY_VERSION: Final = "edgeq.sensitivity/1"
TABLE: Final = "sensitivity.json"
"""The table's name in a bundle."""

_CHUNK_BYTES = 16 * 1024 * 1024
"""About so much of the tensor at a cut is held; what runs between two cuts needs some times that."""
_LARGEST_CHUNK = 256
_FEWEST = 2
"""Images without which there is no standard error."""

Report = Callable[[str, int, int], None]


class LayerSensitivity(BaseModel):
    """One INT8 layer with weights.

    Attributes:
        layer, op, kind, parameters, bytes: as in the plan.
        alone: FP32 network, this layer in INT8.
        released: INT8 network, this layer in floating point.
        gain: the part of the INT8 network's logit error that goes when the layer is released; negative where it grows.
        gain_se: its standard error, from the same images.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: str
    op: str
    kind: str
    parameters: int
    bytes: int
    alone: LogitFigures
    released: LogitFigures
    gain: float
    gain_se: float


class Sensitivity(Artifact):
    """The table of all layers.

    Attributes:
        graph_sha256: of the FP32 graph, from its scales.
        method: how ranges were chosen.
        weights: granularity of the weight scales.
        worst_precision, precision: the errors that were aimed at, of what may be among the ten worst and of the others
            (`edgeq.quantize.search.racing.RaceBounds`).
        int8: the whole INT8 network.
        layers: in the graph's order.
    """

    otherwise = "is not a sensitivity table"
    made_by = "edgeq sensitivity"

    version: Literal["edgeq.sensitivity/1"] = SENSITIVITY_VERSION
    graph_sha256: str
    method: str
    weights: str
    worst_precision: float
    precision: float
    int8: LogitFigures
    layers: tuple[LayerSensitivity, ...]

    def ranking(self) -> tuple[LayerSensitivity, ...]:
        """The layers by logit error of `alone`, the worst first."""
        return tuple(sorted(self.layers, key=lambda line: line.alone.logit_error, reverse=True))


def measure_sensitivity(
    model: onnx.ModelProto,
    plan: PrecisionPlan,
    scales: Scales,
    samples: Samples,
    *,
    pixels: PixelInput | None = None,
    truth: Mapping[str, int] | None = None,
    bounds: RaceBounds | None = None,
    lowering: Lowering = USUAL,
    threads: int | None = None,
    report: Report = lambda *_: None,
) -> tuple[Sensitivity, tuple[str, ...]]:
    """The table, and the names of the samples that could not be read.

    Args:
        model: FP32 and folded, with the node names of `plan`; pixels float32 [n, 3, H, W], or token ids int64
            [n, length], -> [n, classes].
        plan: INT8, for that graph.
        scales: for that graph.
        samples: at least two; they are seen in an order that spreads over the folders.
        pixels: as in `edgeq.quantize.int8.qdq.lower`.
        truth: the class index of each sample by its name; without it there is no top-1.
        bounds: how exact the figures have to be.
        lowering: whose INT8 graph it is.
        threads: None takes every processor there is.
        report: called as (round, done, total), counted in samples times variants.

    Raises:
        QuantizeError: the plan has no INT8 layer with weights.
        ImageError: there are fewer than two samples, or too many cannot be read.
        CalibrationError: a tensor has no scale.
        EngineError: a network gives NaN or infinity.
    """
    layers = int8_layers(plan)
    if not layers:
        raise QuantizeError("the plan has no INT8 layer with weights, so there is nothing to compare")
    if len(samples) < _FEWEST:
        raise _too_few()
    bounds = bounds or RaceBounds()
    bench = Workbench(model, plan, scales, pixels, lowering)
    with Runner(threads or default_threads()) as runner:
        race = Race(bench, [decision.layer for decision in layers], bounds, len(samples), FIRST_ROUND, runner)
        portions = Portions(samples, together=_at_once(bench, samples))
        with many_lowerings(), closing(portions):
            _run(race, portions, truth, report)
    if race.int8 is None or race.seen < _FEWEST:
        raise _too_few()
    table = Sensitivity(
        graph_sha256=scales.graph_sha256,
        method=scales.method_for(lowering.ranges_of),
        weights=plan.weights,
        worst_precision=bounds.worst,
        precision=bounds.others,
        int8=race.int8.figures(),
        layers=tuple(_line(decision, race) for decision in layers),
    )
    return table, portions.skipped


def _run(race: Race, portions: Portions, truth: Mapping[str, int] | None, report: Report) -> None:
    """Rounds of ever more samples, until every layer is sure enough or there is none left."""
    while race.missing:
        before = race.seen
        advance = _counter(report, f"samples from {before + 1} on", race.work)
        for names, arrays in portions.take(race.missing):
            race.see(arrays, _indices(names, truth), advance)
        if race.seen == before:
            return
        race.settle()


def _indices(names: Sequence[str], truth: Mapping[str, int] | None) -> NDArray[np.int64] | None:
    return None if truth is None else np.array([truth[name] for name in names], np.int64)


def _counter(report: Report, stage: str, total: int) -> Callable[[int], None]:
    """A callback that adds up what it is given and reports the sum."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        report(stage, done, total)

    return advance


def _at_once(bench: Workbench, samples: Samples) -> int:
    """How many samples go from cut to cut together."""
    return max(1, min(_LARGEST_CHUNK, _CHUNK_BYTES // bytes_at_cuts(bench.whole, _any(samples))))


def _any(samples: Samples) -> Array:
    """A sample of the usual size."""
    preprocess = samples.preprocess
    if preprocess is not None:  # no image need be readable
        return np.zeros((1, preprocess.channels, preprocess.height, preprocess.width), np.float32)
    return next(array for _, array in samples.arrays([]))


def _too_few() -> ImageError:
    return ImageError(
        f"fewer than {_FEWEST} images or captions can be used",
        expected="some hundred of them, for figures whose errors are small",
    )


def _line(decision: Decision, race: Race) -> LayerSensitivity:
    gain, gain_se = race.gain(decision.layer)
    return LayerSensitivity(
        layer=decision.layer,
        op=decision.op,
        kind=decision.kind,
        parameters=decision.parameters,
        bytes=decision.bytes,
        alone=race.alone[decision.layer].figures(),
        released=race.released[decision.layer].figures(),
        gain=gain,
        gain_se=gain_se,
    )
