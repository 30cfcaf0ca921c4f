"""The cheapest set of layers to leave in floating point, so that the INT8 network loses no more than is allowed.

Layers are taken in the order of the error that each makes alone, for each of its bytes
(`edgeq.quantize.search.sensitivity`). How many of them are needed is found by real evaluation: the INT8 graph is made
and run over labelled images for 0, 1, 2, 4, 8 … of them until the drop is small enough, and then between the last two.

The images that were searched on flatter the result: a set is chosen because it does well on them. So luck does not
count: a network that happens to be better than FP32 there has lost nothing and gained nothing, and the drop's standard
error must be small as well, which it is when few answers change. What the result is worth is told by images that the
search has not seen (`Search.check`).
"""

from __future__ import annotations

import glob
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, Protocol, cast

import onnx
from pydantic import BaseModel, ConfigDict

from edgeq.artifact import Artifact
from edgeq.calibrate.scales import Scales
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import ImageError
from edgeq.model.checkpoint.source import ModelSource
from edgeq.model.images.stream import ImageStream
from edgeq.plan.precision import Precision, PrecisionPlan, Rule
from edgeq.plan.rules import WEIGHTED, added_in_float, float_additions, keep_range, own_rules, plan_classifier
from edgeq.quality.accuracy import ONE_SIDED_95
from edgeq.quality.logits import LogitFigures
from edgeq.quality.tasks.base import Decisive, Examples, Headline, ImageTask, Outputs, TaskFigures
from edgeq.quality.tasks.registry import AnyFigures
from edgeq.quantize.int8.pixels import PixelInput
from edgeq.quantize.int8.qdq import lower
from edgeq.quantize.int8.registry import USUAL
from edgeq.quantize.search.bounds import SearchBounds
from edgeq.quantize.search.sensitivity import Sensitivity

__all__ = [
    "KEPT_BECAUSE",
    "Evaluation",
    "ImageEvaluation",
    "Search",
    "SearchStep",
    "float_share",
    "keep_layers",
    "search",
    "worst_first",
]

SEARCH_VERSION: Final = "edgeq.search/1"
KEPT_BECAUSE: Final = "it costs the output most for what it multiplies"
"""Of layers that a search leaves in floating point without a bound on the drop."""

Speed = Callable[[onnx.ModelProto], float]
"""How many times as fast as FP32 a graph for ONNX Runtime is."""


class SearchStep(BaseModel):
    """One set of layers in floating point, and the network that it makes.

    Attributes:
        kept: layers that the plan had in INT8.
        share: percent of the bytes of all layers with weights that are not INT8, the head's among them.
        figures: on the images searched: of a classifier's logits, or of another task.
        speedup: times FP32's speed at batch 1; None where it was not measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kept: tuple[str, ...]
    share: float
    figures: LogitFigures | AnyFigures
    speedup: float | None

    @property
    def headline(self) -> Headline:
        """The one figure that decides."""
        return self.figures.headline()


class Search(Artifact):
    """What was tried, and what was chosen.

    Attributes:
        max_drop: points of the headline that may be lost on the images searched.
        max_unseen_drop: points that the 95 % limit of the drop on others may reach.
        max_share: percent of bytes that may stay in floating point.
        min_speedup: times FP32's speed that has to be left; None where speed was not asked for.
        steps: by number of layers kept: the frontier of drop against bytes and speed.
        chosen: index of the first step within the bounds; None where there is none.
        check: the chosen step on images that were not searched; None where there is none, or nothing was chosen.
    """

    otherwise = "is not the result of a search"

    version: Literal["edgeq.search/1"] = SEARCH_VERSION
    max_drop: float
    max_unseen_drop: float
    max_share: float
    min_speedup: float | None
    steps: tuple[SearchStep, ...]
    chosen: int | None
    check: LogitFigures | AnyFigures | None = None

    @property
    def kept(self) -> tuple[str, ...]:
        """The layers of the step chosen; none where none was."""
        return () if self.chosen is None else self.steps[self.chosen].kept


class Evaluation(Protocol):
    """What the sets of layers are judged by: one measure on the same samples for all of them."""

    def figures(self, graph: onnx.ModelProto) -> LogitFigures | TaskFigures:
        """What a graph answers beside FP32; its headline is held against the bounds."""
        ...


class ImageEvaluation:
    """Labelled images, and FP32's answers to them.

    Args:
        model: the FP32 graph.
        task: what it is for.
        examples: labelled images.
        source: gives the class names and the preprocessing.
        classes: number of logits.
        threads: of one operator.

    Raises:
        ImageError: no image can be read, or examples and classes do not match.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        task: ImageTask[Any],
        examples: Examples[Any],
        source: ModelSource,
        classes: int,
        threads: int | None,
    ) -> None:
        self._task, self._examples, self._source = task, examples, source
        self._classes, self._threads = classes, threads
        self._reference = [outputs for _, outputs in self._run(model)]
        if not self._reference:
            raise ImageError(f"no image in {examples.images.path} can be read")

    def figures(self, graph: onnx.ModelProto) -> LogitFigures | TaskFigures:
        """What another graph answers beside FP32."""
        tally = self._task.search_tally(self._examples, self._source.labels, self._classes)
        for expected, (names, outputs) in zip(self._reference, self._run(graph), strict=True):
            tally.add(names, expected, outputs)
        return cast("LogitFigures | TaskFigures", tally.figures())  # pydantic looks, in `SearchStep`

    def _run(self, graph: onnx.ModelProto) -> Iterator[tuple[list[str], Outputs]]:
        """Names and outputs, batch after batch: the images are decoded again each time, so that memory stays small."""
        engine = OnnxRuntimeEngine(graph.SerializeToString(), threads=self._threads)
        wanted = self._task.outputs(engine.outputs)
        for items, pixels in ImageStream(self._examples.images, self._source.preprocess, batch_size=self._task.batch):
            values = engine.run({engine.inputs[0]: pixels}, wanted)
            yield [item.name for item in items], tuple(values[name] for name in wanted)


def search(
    model: onnx.ModelProto,
    plan: PrecisionPlan,
    scales: Scales,
    order: Sequence[str],
    evaluation: Evaluation,
    bounds: SearchBounds,
    *,
    pixels: PixelInput | None = None,
    speed: Speed | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Search:
    """Find how many layers of `order` have to stay in floating point.

    Args:
        model: the FP32 graph.
        plan: INT8, for that graph.
        scales: for that graph.
        order: layers, the first to be kept first; see `worst_first`.
        evaluation: on the samples that are searched on.
        bounds: what is allowed.
        pixels: as in `edgeq.quantize.int8.qdq.lower`.
        speed: measures how fast a graph is; `bounds.min_speedup` needs it.
        advance: called with 1 after each evaluation.
    """
    tried: dict[int, SearchStep] = {}

    def step(count: int) -> SearchStep:
        if count not in tried:
            tried[count] = _step(model, plan, scales, tuple(order[:count]), evaluation, pixels, speed)
            advance(1)
        return tried[count]

    def good(count: int) -> bool:
        lost, error = _lost(step(count).figures)
        return lost <= bounds.max_drop and lost + ONE_SIDED_95 * error <= bounds.unseen

    affordable = _affordable(plan, order, bounds.max_share)
    below, enough = -1, None
    for count in _growing(affordable):
        if bounds.min_speedup is not None and (step(count).speedup or 0.0) < bounds.min_speedup:
            break
        if good(count):
            enough = count
            break
        below = count
    while enough is not None and enough - below > 1:
        middle = (below + enough) // 2
        below, enough = (below, middle) if good(middle) else (middle, enough)
    counts = sorted(tried)
    return Search(
        max_drop=bounds.max_drop,
        max_unseen_drop=bounds.unseen,
        max_share=bounds.max_share,
        min_speedup=bounds.min_speedup,
        steps=tuple(tried[count] for count in counts),
        chosen=None if enough is None else counts.index(enough),
    )


def worst_first(table: Sensitivity) -> tuple[str, ...]:
    """The layers of a table by the squared logit error that each makes alone, for each of its bytes."""
    lines = sorted(table.layers, key=lambda line: line.alone.logit_error**2 / max(line.bytes, 1), reverse=True)
    return tuple(line.layer for line in lines)


def keep_layers(
    model: onnx.ModelProto,
    plan: PrecisionPlan,
    layers: Sequence[str],
    *,
    because: str = "without it the drop would be larger than allowed",
    beyond_fp16: Mapping[str, str] | None = None,
) -> PrecisionPlan:
    """`plan` with these layers in FP16, each by a rule of its own, and what follows from that around them.

    Args:
        model: FP32, with the node names of `plan`.
        plan: for that graph; its own rules stay behind the new ones.
        layers: names of those to keep; none gives `plan` itself.
        because: why, in a sentence.
        beyond_fp16: layers that FP16 would break, from `Scales`: these are FP32.
    """
    if not layers:
        return plan
    kept = tuple(
        Rule(
            name=f"fp16-kept-{layer}",
            layer=glob.escape(layer),
            precision=Precision.FP16,
            reason=because,
        )
        for layer in layers
    )
    floating = added_in_float(plan)
    made = plan_classifier(
        model,
        rules=(*kept, *own_rules(plan)),
        weights=plan.weights,
        shared_add=plan.shared_add,
        keep_batchnorm=plan.keep_batchnorm,
        transformer=plan.transformer,
    )
    made = float_additions(model, made, named=True) if floating else made
    settled = ("allowed", "channel_equalization", "weight_rounding", "bias_correction")
    made = made.model_copy(update={name: getattr(plan, name) for name in settled})
    return keep_range(model, made, beyond_fp16 or {})


def float_share(plan: PrecisionPlan, kept: Sequence[str] = ()) -> float:
    """Percent of the bytes of all layers with weights that are not INT8, with the layers of `kept` left out as well."""
    weighted = [decision for decision in plan.decisions if decision.op in WEIGHTED]
    left = set(kept)
    floating = sum(d.bytes for d in weighted if d.precision is not Precision.INT8 or d.layer in left)
    return 100.0 * floating / max(sum(decision.bytes for decision in weighted), 1)


def _step(
    model: onnx.ModelProto,
    plan: PrecisionPlan,
    scales: Scales,
    kept: tuple[str, ...],
    evaluation: Evaluation,
    pixels: PixelInput | None,
    speed: Speed | None,
) -> SearchStep:
    revised = keep_layers(model, plan, kept, beyond_fp16=scales.beyond_fp16)
    graph = lower(model, revised, scales, USUAL, pixels=pixels)
    return SearchStep(
        kept=kept,
        share=float_share(revised),
        figures=evaluation.figures(graph),
        speedup=speed(graph) if speed else None,
    )


def _lost(figures: Decisive) -> tuple[float, float]:
    """Points of the headline lost, none where some were won, and their standard error."""
    headline = figures.headline()
    return max(headline.drop, 0.0), math.inf if headline.standard_error is None else headline.standard_error


def _affordable(plan: PrecisionPlan, order: Sequence[str], max_share: float) -> int:
    """How many layers of `order` may be kept within the byte budget."""
    count = 0
    while count < len(order) and float_share(plan, order[: count + 1]) <= max_share:
        count += 1
    return count


def _growing(last: int) -> Iterator[int]:
    """0, 1, 2, 4, 8 … and `last`."""
    yield 0
    count = 1
    while count < last:
        yield count
        count *= 2
    if last:
        yield last
