"""The gate, as the main job asks it: each graph is judged, and what stands in for one that loses too much.

Every backend's INT8 graph is held against FP32: that of the backend at hand on all labelled images, with its speed
where the network is a transformer; the others, such as TensorRT's, by accuracy alone, in ONNX Runtime, which rounds
where the Q/DQ pairs say. Where accuracy is lost, the layers that lose most are looked for, and then

1. a few layers are kept in floating point, if that is enough (`edgeq.pipeline.search`; it needs labelled images);
2. else floating point takes the place of the graphs that lose too much (`edgeq.pipeline.keep_float`);
3. else, where FP16 loses too much as well, nothing is made.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.calibrate.samples import ImageSamples
from edgeq.calibrate.scales import Scales
from edgeq.engine.base import EngineBackend
from edgeq.engine.onnxruntime import STAND_IN
from edgeq.engine.registry import BUILT, DEFAULT
from edgeq.errors import EdgeqError, GateError, ParityError
from edgeq.export.stage import FP32
from edgeq.model.checkpoint.source import ModelSource
from edgeq.model.graph.onnx_file import load_onnx, save_onnx
from edgeq.model.images.image_set import ImageSet
from edgeq.pipeline.keep_float import drop_half, keep_float
from edgeq.pipeline.search import FEWEST, Found, halves, save_found, search_graph
from edgeq.pipeline.stages import Options, Progress, counter, judge_graphs, spread_images
from edgeq.plan.precision import PrecisionPlan
from edgeq.quality.gate import Gate, GateBounds, GraphVerdict, WorstLayer, decide, is_gated, is_transformer, judge_graph
from edgeq.quality.judge import MOST_FURTHER, Further, Quality, compare
from edgeq.quality.tasks.base import Examples, Figures, ImageTask
from edgeq.quantize.engine_inputs import write_classifier_inputs
from edgeq.quantize.fp16.fp16_simulation import simulate_fp16
from edgeq.quantize.int8.base import Lowering
from edgeq.quantize.int8.pixels import PixelInput
from edgeq.quantize.int8.registry import USUAL, lowerings
from edgeq.quantize.int8.stage import FP16, made_graph, quantize
from edgeq.quantize.int8.tensorrt import LOWERING as TENSORRT
from edgeq.quantize.search.bounds import SearchBounds
from edgeq.quantize.search.sensitivity import Sensitivity, measure_sensitivity

__all__ = ["GATE", "QUALITY", "Judging", "Settled", "settle"]

GATE: Final = "gate.json"
QUALITY: Final = "quality.json"

_SEARCHED: Final = 2000
"""Labelled images, at most, that a search sees; it searches on half of them."""
_RANKING_IMAGES: Final = 32
"""That tell which layers lose most."""
_NAMED: Final = 5
_FP16_STEP: Final = 2.0**-10
"""What a node may add to the relative error in FP16, twice its rounding; such errors add up as a square root."""


@dataclass(frozen=True)
class Judging:
    """What the graphs of a directory are judged with.

    Attributes:
        work: the directory, with the INT8 graphs.
        scales: that they were made with.
        source: gives the class names and the preprocessing.
        images: of the calibration.
        proof: some of them, float32 [n, 3, H, W], that FP16 is proved on.
        task: what the network is for.
        examples: labelled images; None where there are none.
        options: of the job.
        report: told of each stage.
    """

    work: Path
    scales: Scales
    source: ModelSource
    images: ImageSet
    proof: NDArray[np.float32]
    task: ImageTask[Any]
    examples: Examples[Any] | None
    options: Options
    report: Progress

    @property
    def classes(self) -> bool:
        """Whether the answers are logits of classes that have names."""
        return bool(self.source.labels)


@dataclass(frozen=True)
class Settled:
    """What the bundle runs.

    Attributes:
        plan: of the INT8 graphs that were kept; of the FP16 graph where none was.
        gate: the decision; None for a plan without INT8 layers.
        quality: of the INT8 graph that was judged.
        examples: labelled images that it was judged on.
        running: the graph that the backend at hand runs.
        device: the INT8 graph that TensorRT alone runs; None where `running` is INT8 as well, or no INT8 was kept.
        found: the search for layers to keep in floating point; None where nothing was searched or found.
    """

    plan: PrecisionPlan
    gate: Gate | None
    quality: Quality
    examples: Examples[Any] | None
    running: str
    device: str | None = None
    found: Found | None = None


def settle(plan: PrecisionPlan, job: Judging) -> Settled:
    """Judge the INT8 graphs of a directory, and put something else in the place of those that lose too much.

    `gate.json` is written, and `quality.json` where the INT8 graph that was judged is kept.

    Args:
        plan: of the graphs.
        job: what they are judged with.

    Raises:
        GateError: FP16 loses too much as well.
        EngineError: a graph does not run.
        ImageError: no image can be read, or examples and classes do not match.
    """
    first = _judge(plan, job)
    gate = first.gate
    if gate is None:
        return _kept(first, job)
    table = _table(plan, gate, job) if gate.enforced and not _accurate(gate) else None
    gate = _with_worst_layers(gate, table)
    found = _search(plan, table, gate, job)
    if found is not None:
        mixed = _with_layers_kept(found, job)
        if mixed.gate is not None and mixed.gate.passed and not mixed.gate.refused:
            save_found(found, job.work)
            return _kept(replace(mixed, gate=_with_worst_layers(mixed.gate, table)), job)
        _make(plan, job)  # as it was judged first
    if gate.passed and not gate.refused:
        return _kept(replace(first, gate=gate), job)
    return _kept(_in_floating_point(first, gate, job), job)


def _judge(plan: PrecisionPlan, job: Judging) -> Settled:
    """Every graph as it is; those of other backends by accuracy alone: nobody knows here how fast these are."""
    options, judged = job.options, made_graph(job.work).name
    others = [each for each in lowerings(options.backend) if each.file != judged] if is_gated(plan) else []
    seen = min(len(job.examples), MOST_FURTHER) if job.examples else 0
    count_further = cache(partial(counter, job.report, "judge other graphs", seen * len(others)))
    with tempfile.TemporaryDirectory() as folder:
        further = [Further(_as_run(each, job.work, Path(folder)), _runs(each)) for each in others]
        quality, figures = judge_graphs(
            job.work,
            job.task,
            job.examples,
            job.images,
            job.source,
            threads=options.threads,
            timing=options.timing,
            advance=counter(job.report, "judge", len(job.examples) if job.examples else 0),
            further=further,
            advance_further=lambda images: count_further()(images),
        )
    settled = Settled(plan, None, quality, job.examples, judged)
    if not is_gated(plan):
        return settled
    gate = decide(quality, options.gate, speed=is_transformer(plan), classes=job.classes)
    verdicts = (
        _verdict(lowering.file, lowering.name, graph.backend, found, options.gate, job)
        for lowering, graph, found in zip(others, further, figures, strict=True)
    )
    return replace(settled, gate=gate.model_copy(update={"others": tuple(verdicts)}))


def _runs(lowering: Lowering) -> EngineBackend:
    """What runs a graph here."""
    return DEFAULT if lowering.backend is DEFAULT else STAND_IN


def _as_run(lowering: Lowering, work: Path, folder: Path) -> Path:
    """The graph of a backend as it can be run here: with FP16 beside its pairs, every FP16 tensor is rounded."""
    graph = work / lowering.file
    if not lowering.half_scales:
        return graph
    rounded = folder / lowering.file
    save_onnx(simulate_fp16(onnx.load(graph)), rounded)
    return rounded


def _verdict(
    name: str,
    made_for: str,
    run_by: EngineBackend,
    figures: Figures,
    bounds: GateBounds,
    job: Judging,
    *,
    rounding: float = 0.0,
) -> GraphVerdict:
    headline, version = figures.headline(), run_by.version()
    return judge_graph(name, made_for, version, headline, bounds, classes=job.classes, rounding=rounding)


def _accurate(gate: Gate) -> bool:
    return gate.accurate and not gate.refused


def _table(plan: PrecisionPlan, gate: Gate, job: Judging) -> Sensitivity | None:
    """What each layer loses in the graph that was refused; None where that cannot be told.

    It names layers in a message, so that what it cannot measure is no error of the job.
    """
    refused = [each for each in lowerings(job.options.backend) if each.file in gate.refused]
    lowering = refused[0] if gate.accurate and refused else USUAL
    some = ImageSamples(job.images.sample(min(_RANKING_IMAGES, len(job.images))), job.source.preprocess)
    with suppress(EdgeqError):
        table, _ = measure_sensitivity(
            onnx.load(job.work / FP32),
            plan,
            job.scales,
            some,
            pixels=PixelInput.of(job.source.preprocess),
            lowering=lowering,
            threads=job.options.threads,
            report=job.report,
        )
        return table
    return None


def _with_worst_layers(gate: Gate, table: Sensitivity | None) -> Gate:
    ranking = table.ranking()[:_NAMED] if table else ()
    worst = tuple(WorstLayer(layer=line.layer, op=line.op, logit_error=line.alone.logit_error) for line in ranking)
    return gate.model_copy(update={"worst_layers": worst})


def _search(plan: PrecisionPlan, table: Sensitivity | None, gate: Gate, job: Judging) -> Found | None:
    """Few layers that are enough in floating point; None where that cannot be searched, or is not found.

    It is searched where ONNX Runtime's graph loses accuracy and nothing else, on labelled images, unless the layers
    were chosen already.
    """
    options, examples = job.options, job.examples
    chosen = options.search is not None or options.plan is not None
    lost = not gate.passed and not gate.accurate and len(gate.objections) == 1
    if (
        chosen
        or not lost
        or table is None
        or examples is None
        or len(examples) < FEWEST
        or options.backend != USUAL.name
    ):
        return None
    with suppress(GateError):
        return search_graph(
            job.work / FP32,
            plan,
            job.scales,
            job.source,
            job.images,
            job.task,
            examples.part(examples.images.sample(_SEARCHED)),
            SearchBounds(options.gate.max_drop),
            threads=options.threads,
            report=job.report,
            table=table,
            timed=False,
        )
    return None


def _with_layers_kept(found: Found, job: Judging) -> Settled:
    """The graphs with the layers that a search found in floating point, judged on images that it did not see."""
    examples = job.examples
    if examples is not None:
        searched, _ = halves(examples.images.sample(_SEARCHED))
        examples = examples.part(examples.images.without(searched.items))
    job = replace(job, examples=examples)
    _make(found.plan, job)
    return replace(_judge(found.plan, job), found=found)


def _make(plan: PrecisionPlan, job: Judging) -> None:
    quantize(job.work / FP32, plan, job.scales, job.source.preprocess, job.work, backend=job.options.backend)
    write_classifier_inputs(job.work, plan, job.scales)


def _in_floating_point(first: Settled, gate: Gate, job: Judging) -> Settled:
    """Floating point in the place of the graphs that were refused."""
    plan, keep = first.plan, _kept_graphs(gate, job)
    because = f"INT8 is not worth it: {'; '.join(gate.all_objections())}"
    needed, half = TENSORRT.file not in keep, plan
    job.report("floating point", 0, 0)
    try:
        half = keep_float(job.work, plan, job.proof, because=because, keep=keep, threads=job.options.threads)
        verdict = _half_verdict(gate, job, needed=needed)
        gate = gate.model_copy(update={"others": (*gate.others, verdict)})
        if not verdict.kept:
            drop_half(job.work)
    except ParityError as error:  # where INT8 is kept for TensorRT, it has no other choice then
        if needed:
            raise _nothing_left(gate, error.what) from error
    running = first.running if gate.passed else FP32
    device = TENSORRT.file if not gate.passed and TENSORRT.file in keep else None
    return replace(first, plan=plan if keep else half, gate=gate, running=running, device=device)


def _kept_graphs(gate: Gate, job: Judging) -> Collection[str]:
    """The INT8 graphs that stay; ONNX Runtime's only with that of the backend at hand, which would run it instead."""
    made = [each for each in lowerings(job.options.backend) if each.file not in gate.refused]
    judged = made_graph(job.work).name
    dropped = set() if gate.passed else {judged, USUAL.file}
    return [each.file for each in made if each.file not in dropped]


def _half_verdict(gate: Gate, job: Judging, *, needed: bool) -> GraphVerdict:
    """FP16 with every tensor rounded, beside FP32; raises GateError where it is needed and loses too much."""
    examples = job.examples
    if examples is not None:
        examples = examples.part(examples.images.sample(MOST_FURTHER))
    pixels = spread_images(job.images, job.source, labelled=examples is not None)
    half = load_onnx(job.work / FP16)
    rounding = _FP16_STEP * math.sqrt(len(half.graph.node))
    with tempfile.TemporaryDirectory() as folder:
        rounded = Path(folder) / FP16
        save_onnx(simulate_fp16(half), rounded)
        figures, _ = compare(
            job.work / FP32, rounded, job.task, examples, job.source, pixels, threads=job.options.threads
        )
    verdict = _verdict(FP16, BUILT.name, DEFAULT, figures, job.options.gate.loosened(), job, rounding=rounding)
    if needed and not verdict.kept:
        raise _nothing_left(gate, verdict.reason)
    return verdict


def _nothing_left(gate: Gate, half: str) -> GateError:
    worst = gate.worst()
    return GateError(
        f"neither INT8 nor FP16 answers as FP32 does; FP16: {half}",
        expected=f"a drop of at most {gate.max_drop:g} points, or answers as near as the gate's bounds demand",
        causes=(*gate.all_objections(), *((worst,) if worst else ())),
        next_step="give --gate-drop a bound that this network can keep, or --gate off to have INT8 for a comparison",
    )


def _kept(settled: Settled, job: Judging) -> Settled:
    if settled.gate is not None:
        settled.gate.save(job.work / GATE)
    if settled.gate is None or settled.gate.passed:
        settled.quality.save(job.work / QUALITY)
    return settled
