"""The stages as the main job and the verbs run them: each takes the artifacts of the one before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeq.calibrate.choices import AUTO, CALIBRATION_IMAGES, SEARCH
from edgeq.calibrate.counts import Counting
from edgeq.calibrate.histogram import Histogram
from edgeq.calibrate.observe import Observer
from edgeq.calibrate.samples import Samples
from edgeq.calibrate.scales import Scales
from edgeq.calibrate.stage import calibrate, hold_back
from edgeq.calibrate.tensorrt_scales import activation_tensors
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.engine.registry import DEFAULT, backend_of_graph
from edgeq.errors import ImageError, PlanError
from edgeq.export.stage import FP32, ExportReport
from edgeq.model.checkpoint.source import ModelSource
from edgeq.model.graph.answers import Expected
from edgeq.model.graph.external_data import read_in
from edgeq.model.graph.outline import load_outline
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.stream import ImageStream
from edgeq.pipeline.look_ahead import LookAhead
from edgeq.plan.precision import (
    ChannelEqualization,
    Precision,
    PrecisionPlan,
    Rule,
    Scope,
    WeightGranularity,
    WeightRounding,
)
from edgeq.plan.rules import float_additions, plan_classifier, replan
from edgeq.quality.gate import DEFAULT_BOUNDS, GateBounds
from edgeq.quality.judge import Further, Quality, judge
from edgeq.quality.latency import DEFAULT_TIMING, Timing
from edgeq.quality.tasks.base import Examples, Figures, ImageTask
from edgeq.quantize.fp16.overflow import to_look_at
from edgeq.quantize.fp16.overflow_rules import overflow_reasons
from edgeq.quantize.int8.pixels import pixel_input
from edgeq.quantize.int8.qdq import calibrated_tensors
from edgeq.quantize.int8.select import resolve, select, trials
from edgeq.quantize.int8.stage import made_graph
from edgeq.quantize.rounding.stage import Wanted, correct_weights, some_to_learn_from, steps
from edgeq.quantize.search.addition_trial import try_float_additions
from edgeq.quantize.search.bounds import SearchBounds
from edgeq.quantize.search.float_layers import try_float_layers
from edgeq.quantize.search.range_search import search_ranges

__all__ = [
    "PARITY_IMAGES",
    "Options",
    "Progress",
    "calibrate_graph",
    "check_classes",
    "counter",
    "expected_answer",
    "implied_allowances",
    "judge_graphs",
    "observe_some",
    "observed_tensors",
    "parity_images",
    "plan_graph",
    "planned_tensors",
    "spread_images",
]

PARITY_IMAGES = 32
_OBSERVED_EVALUATION_IMAGES = 64
_SEARCHED_SAMPLES = 64
_RANGE_SAMPLES = 16
"""That tell whether a layer's numbers stay within FP16."""
_VECTOR = 2
_FAR_FROM_FP32 = 0.1
"""From this logit error on, on the images held back, `auto` takes the time to correct weights and biases."""

Progress = Callable[[str, int, int], None]
"""Called as (stage, done, total); total is 0 for a stage that is not counted."""


@dataclass(frozen=True)
class Options:
    """How the main job is done.

    Attributes:
        calibration_images: at most so many of the calibration set are used.
        method: how a histogram becomes a range; `auto` tries all, `search` then looks for each tensor's own.
        weights: granularity of the weight scales; `per-tensor` is for comparison.
        fold: fold BatchNorm; False is for comparison.
        keep_batchnorm: BatchNorm nodes that stay, in FP32.
        strict: a BatchNorm that cannot be folded is an error; without it, it stays in FP32.
        rules: asked before the built-in ones.
        plan: a saved plan, whose rules, settings and allowances stand in for the built-in rules and for `weights`,
            `fold`, `keep_batchnorm`, `shared_add`, `float_adds`, `transformer`, `channel_equalization` and `rules`;
            AdaRound and bias correction where it has them.
        allow: guards that may be passed: code -> because.
        shared_add: one scale for both inputs of a residual addition; None lets `auto` try both and shares otherwise.
        float_adds: residual additions stay in floating point; None tries it where `method` is `search`. With False a
            search leaves no layer in floating point either.
        transformer: which linear layers of a transformer are INT8.
        channel_equalization: how the channels before linear layers are brought to like ranges; `auto` leaves networks
            without normalization as they are.
        weight_rounding: how INT8 weights are rounded; `auto` tries AdaRound where `method` is `search`, or where INT8
            is far from FP32 without.
        bias_correction: biases take back what quantization shifts on average; None as `auto` above.
        gate: what an INT8 graph must be worth to be kept.
        search: keep layers in floating point until the drop is within these bounds; None keeps none.
        backend: whose INT8 graph is judged; it is made beside those that every bundle has.
        outputs: names of the graph's outputs that are the answer; empty leaves that to the labels.
        task: what the network is for, one of `edgeq.quality.tasks.registry.task_names()`; None leaves that to the
            model's config.
        detector_head: kind of a detector's outputs, one of `edgeq.model.heads.detector.HEAD_KINDS`; None leaves that to
            the outputs.
        threads: of one operator; None takes every processor there is.
        timing: how long latency is measured.
    """

    calibration_images: int = CALIBRATION_IMAGES
    method: str = AUTO
    weights: WeightGranularity = "per-channel"
    fold: bool = True
    keep_batchnorm: tuple[str, ...] = ()
    strict: bool = False
    shared_add: bool | None = None
    float_adds: bool | None = None
    transformer: Scope = "linears"
    channel_equalization: ChannelEqualization = "auto"
    weight_rounding: WeightRounding = "auto"
    bias_correction: bool | None = None
    gate: GateBounds = DEFAULT_BOUNDS
    rules: tuple[Rule, ...] = ()
    plan: PrecisionPlan | None = None
    allow: Mapping[str, str] = field(default_factory=dict)
    search: SearchBounds | None = None
    backend: str = DEFAULT.name
    outputs: tuple[str, ...] = ()
    task: str | None = None
    detector_head: str | None = None
    threads: int | None = None
    timing: Timing = DEFAULT_TIMING

    def settled(self) -> Options:
        """With what the saved plan says, and with what the choices for comparison allow by themselves.

        Raises:
            PlanError: corrections of weights or biases are asked for where they cannot be had.
        """
        _check_corrections(self)
        if self.plan is None:
            return replace(self, allow={**implied_allowances(self), **self.allow})
        return replace(
            self,
            fold=True,  # what the plan keeps it names
            weights=self.plan.weights,
            keep_batchnorm=self.plan.keep_batchnorm,
            shared_add=self.plan.shared_add,
            float_adds=False,  # the plan's rules say it
            transformer=self.plan.transformer,
            channel_equalization=self.plan.channel_equalization,
            weight_rounding="adaround" if self.plan.weight_rounding == "adaround" else self.weight_rounding,
            bias_correction=self.plan.bias_correction or self.bias_correction,
            allow={**self.plan.allowed, **self.allow},
        )


def _check_corrections(options: Options) -> None:
    asked = "adaround" in (options.weight_rounding, options.plan.weight_rounding if options.plan else "")
    if asked and (options.plan or options).weights == "per-tensor":
        raise PlanError(
            "--weight-rounding adaround with --weights per-tensor",
            expected="a scale for each output channel, as AdaRound is done here",
            next_step="leave out --weights per-tensor, or take --weight-rounding nearest",
        )


def implied_allowances(options: Options) -> dict[str, str]:
    """What a choice that exists for comparison only allows by itself: code -> because."""
    asked = {
        "EQ103": "--weights per-tensor" if options.weights == "per-tensor" else "",
        "EQ102": "--no-fold" if not options.fold else "--keep-batchnorm" if options.keep_batchnorm else "",
    }
    return {code: f"asked for with {flag}, for comparison" for code, flag in asked.items() if flag}


def unfoldable_allowance(unfoldable: Mapping[str, str]) -> dict[str, str]:
    """What a BatchNorm that cannot be folded allows by itself: code -> because.

    Args:
        unfoldable: BatchNorm -> why not.
    """
    if not unfoldable:
        return {}
    name, reason = next(iter(unfoldable.items()))
    return {"EQ102": f"{len(unfoldable)} cannot be folded and stay in FP32; {name}: {reason}"}


def expected_answer(
    source: ModelSource, task: ImageTask[Any], examples: Examples[Any] | None, outputs: tuple[str, ...] = ()
) -> Expected:
    """What is known of a network's answer before it is run.

    Args:
        source: of the model, for the labels of its config.
        task: what it is for.
        examples: a labelled set; None for none.
        outputs: names that were asked for.
    """
    return Expected(
        outputs=outputs,
        labels=len(source.labels) if source.labels else None,
        classes=task.classes(examples) if examples is not None else None,
        one_vector=task.one_vector,
        one_class=task.one_class,
    )


def check_classes(
    task: ImageTask[Any], examples: Examples[Any] | None, source: ModelSource, answer: int | None
) -> None:
    """Look at the labels of all examples before any long work; where nothing is known of the answer, nothing is done.

    Args:
        task: what the network is for.
        examples: a labelled set; None for none.
        source: of the model, for its class names.
        answer: numbers of the answer for an image; None where that is not one vector, or not known yet.

    Raises:
        ImageError, ModelError: as `ImageTask.tally`.
    """
    if examples is not None and answer is not None and task.one_vector:
        task.tally(examples, source.labels, answer)


def parity_images(images: ImageSet, source: ModelSource, count: int = PARITY_IMAGES) -> NDArray[np.float32]:
    """The first readable images of a set, float32 [n, 3, H, W], n at most `count`.

    Args:
        images: the set, from its beginning.
        source: of the model, for its preprocessing.
        count: of images wanted.

    Raises:
        ImageError: none can be read.
    """
    found: list[NDArray[np.float32]] = []
    for item in images.items:
        if len(found) == count:
            break
        with suppress(ImageError):  # the calibration stage counts and names those that cannot be read
            found.append(source.preprocess(images.read(item)))
    if not found:
        for _ in ImageStream(images, source.preprocess, batch_size=1):
            pass  # raises, naming the images and what is wrong with each
        raise ImageError(f"no image in {images.path} can be read")
    return np.stack(found)


def spread_images(images: ImageSet, source: ModelSource, *, labelled: bool) -> NDArray[np.float32]:
    """What graphs are compared on where there are no labels, float32 [n, 3, H, W]: images of every folder.

    Args:
        images: any real ones.
        source: of the model, for its preprocessing.
        labelled: there are labelled images besides, so that one is enough, which is timed.

    Raises:
        ImageError: none can be read.
    """
    if labelled:
        return parity_images(images, source, count=1)
    sample = images.sample(PARITY_IMAGES)
    return parity_images(replace(images, items=(*sample.items, *images.without(sample.items).items)), source)


def calibrate_graph(
    graph: Path,
    plan: PrecisionPlan,
    tensors: tuple[str, ...],
    samples: Samples,
    options: Options,
    report: Progress,
    *,
    checkpoint: Path | None = None,
    counting: Counting | None = None,
    task: ImageTask[Any] | None = None,
) -> tuple[Scales, tuple[str, ...]]:
    """Calibrate an exported graph, with a choice of method for each backend where `auto` is asked for.

    Args:
        graph: FP32 ONNX file.
        plan: for that graph.
        tensors: names of those that need a scale.
        samples: the calibration set: images, or a text encoder's captions.
        options: for method, threads and shared scales.
        report: told of each stage.
        checkpoint: file of counts to go on from and to write; None for none.
        counting: elsewhere; None counts in this process.
        task: what the graph is for, whose fields methods are judged by; None takes the first output.

    Returns:
        The scales, and the names of the samples that could not be read.

    Raises:
        PlanError: a search, or corrections of weights, were asked for, and the network gives no vector for each image.
    """
    if options.method == SEARCH and not _gives_one_vector(graph, samples):
        raise _no_vector("a search for ranges", "--method auto, which judges every output")
    method = AUTO if options.method == SEARCH else options.method
    counted, held_back = hold_back(samples, method)
    fields = None if task is None or not task.understands else partial(_fields, task)
    with ThreadPoolExecutor(1) as ahead:
        looking = LookAhead(ahead, graph, held_back, len(samples), fields=fields, threads=options.threads)
        scales, skipped = calibrate(
            graph,
            tensors,
            counted,
            method=method,
            threads=options.threads,
            checkpoint=checkpoint,
            total=len(samples),
            advance=counter(report, "calibrate", len(counted)),
            counting=counting,
            counted=looking.begin,
        )
        scales = scales.model_copy(update={"beyond_fp16": _beyond_fp16(graph, plan, scales, counted, options)})
        judged, unusable = looking.samples()
        if not judged:  # none was held back, or each is damaged, which the whole set may still afford
            return _correct(graph, plan, scales, counted, judged, options, report), (*skipped, *unusable)
        scales = select(
            graph,
            plan,
            scales,
            samples.preprocess,
            judged,
            shared_add=options.shared_add,
            fields=fields,
            threads=options.threads,
            advance=counter(report, "try", trials(options.shared_add)),
            judging=looking.answers,
        )
    if options.method == SEARCH:
        some = counted.sample(min(_SEARCHED_SAMPLES, 2 * len(judged), len(counted)))
        scales = _leave_in_float(graph, plan, scales, some, judged, options, report)
        scales = search_ranges(
            onnx.load(graph),
            resolve(plan, scales, graph),
            scales,
            [array for _, array in some.arrays([], len(samples))],
            judged,
            pixels=pixel_input(samples.preprocess),
            threads=options.threads,
            advance=counter(report, "search ranges", 0),
        )
    return _correct(graph, plan, scales, counted, judged, options, report), (*skipped, *unusable)


def _beyond_fp16(
    graph: Path, plan: PrecisionPlan, scales: Scales, samples: Samples, options: Options
) -> dict[str, str]:
    """The layers that FP16 would break, and why; not looked for where no layer is FP16.

    Of what was calibrated the extremes are known from all samples; the rest is seen on some of them.
    """
    half = plan.layers(Precision.FP16)
    if not half:
        return {}
    known = {name: max(-tensor.minimum, tensor.maximum) for name, tensor in scales.tensors.items()}
    model = load_outline(graph)
    everything = bool(to_look_at(model, known=known, layers=half))  # for then the graph is run
    read = {name for node in model.graph.node if node.name in half for name in node.input}
    read_in(model, graph, lambda tensor: everything or tensor.name in read or len(tensor.dims) == 1)  # biases
    source, some = model.graph.input[0].name, samples.sample(_RANGE_SAMPLES)
    runs = ({source: array} for _, array in some.arrays([], len(samples)))
    return overflow_reasons(model, runs, known=known, layers=half, threads=options.threads)


def _leave_in_float(
    graph: Path,
    plan: PrecisionPlan,
    scales: Scales,
    samples: Samples,
    judged: Sequence[NDArray[Any]],
    options: Options,
    report: Progress,
) -> Scales:
    """Scales with what a search leaves in floating point of an image network: additions, and a few layers."""
    pixels, threads = pixel_input(samples.preprocess), options.threads
    if pixels is None or options.plan is not None or options.float_adds is False:
        return scales
    model = onnx.load(graph)
    resolved, advance = resolve(plan, scales, graph), counter(report, "try additions", 0)
    scales = try_float_additions(model, resolved, scales, judged, pixels=pixels, threads=threads, advance=advance)
    resolved = resolve(plan, scales, graph)
    return try_float_layers(model, resolved, scales, samples, judged, pixels=pixels, threads=threads, report=report)


def _correct(
    graph: Path,
    plan: PrecisionPlan,
    scales: Scales,
    samples: Samples,
    judged: Sequence[NDArray[Any]],
    options: Options,
    report: Progress,
) -> Scales:
    """Scales with weights' rounding and biases corrected, where that was asked for or is worth its time."""
    wanted = _wanted(plan, scales, options)
    if wanted is None or (not judged and not wanted.insist):
        return scales
    if options.method != SEARCH and not _gives_one_vector(graph, samples):  # a search has looked already
        if wanted.insist:
            raise _no_vector("the rounding of weights and biases", "--weight-rounding nearest --no-bias-correction")
        return scales
    model, plan = onnx.load(graph), resolve(plan, scales, graph)
    return correct_weights(
        model,
        plan,
        scales,
        some_to_learn_from(model, samples),
        judged,
        wanted,
        pixels=pixel_input(samples.preprocess),
        threads=options.threads,
        advance=counter(report, "correct weights", steps(model, plan, wanted)),
    )


def _gives_one_vector(graph: Path, samples: Samples) -> bool:
    """Whether a graph gives what searches and corrections are judged by: one output, a vector for each image."""
    if len(load_outline(graph).graph.output) > 1:
        return False
    sample = next((array for _, array in samples.sample(1).arrays([], len(samples))), None)
    if sample is None:  # damaged, of which more is said where all are read
        return True
    engine = OnnxRuntimeEngine(graph)
    (answer,) = engine.run({engine.inputs[0]: sample}).values()
    return answer.ndim == _VECTOR


def _no_vector(what: str, instead: str) -> PlanError:
    return PlanError(
        f"{what} can be judged only where a network gives one vector for each image",
        expected="one output [images, numbers]",
        next_step=instead,
    )


def _wanted(plan: PrecisionPlan, scales: Scales, options: Options) -> Wanted | None:
    """What of weights and biases is corrected; None for nothing."""
    asked = options.weight_rounding == "adaround" or options.bias_correction is True
    errors = [trial.logit_error for trial in scales.trials if trial.method == scales.method_for(trial.backend)]
    tried = options.method == SEARCH or (options.method == AUTO and max(errors, default=0.0) > _FAR_FROM_FP32)
    if not asked and (not tried or plan.weights == "per-tensor"):
        return None
    rounding = options.weight_rounding == "adaround" or (tried and options.weight_rounding == "auto")
    biases = options.bias_correction is True or (tried and options.bias_correction is None)
    rounding = rounding and plan.weights == "per-channel"
    return Wanted(rounding, biases, insist=asked) if rounding or biases else None


def _fields(task: ImageTask[Any], outputs: Mapping[str, NDArray[np.float32]]) -> Sequence[NDArray[np.float32]]:
    """What a task finds in a graph's outputs, a tensor for each field."""
    wanted = task.outputs(tuple(outputs))
    return tuple(task.fields(tuple(outputs[name] for name in wanted)).values())


def observe_some(
    graph: Path, tensors: tuple[str, ...], images: ImageSet | None, source: ModelSource, threads: int | None
) -> dict[str, Histogram] | None:
    """Histograms of a few evaluation images, to be held against those of the calibration; None without images.

    Args:
        graph: FP32 ONNX file.
        tensors: names of those that are counted.
        images: the evaluation set; None for none.
        source: of the model, for its preprocessing.
        threads: processors to use; None takes every one there is.
    """
    if images is None:
        return None
    observer = Observer(graph, tensors, threads=threads)
    some = images.sample(_OBSERVED_EVALUATION_IMAGES)
    for items, pixels in ImageStream(some, source.preprocess, batch_size=16, total=len(images)):
        observer.add([item.name for item in items], pixels)
    return observer.histograms


def planned_tensors(graph: Path, plan: PrecisionPlan | None = None) -> tuple[str, ...]:
    """Names of the tensors of an exported graph that need a scale: for `plan`, or for the built-in rules."""
    model = load_outline(graph)
    return calibrated_tensors(model, plan or plan_classifier(model))


def observed_tensors(graph: Path) -> tuple[str, ...]:
    """What is observed for a TensorRT calibration cache: every activation of an exported graph, in the graph's order.

    That is more than the Q/DQ graphs need; the scales hold the surplus too.
    """
    model = load_outline(graph)
    return tuple(dict.fromkeys((*activation_tensors(model), *calibrated_tensors(model, plan_classifier(model)))))


def plan_graph(graph: Path, exported: ExportReport, options: Options) -> PrecisionPlan:
    """The precision plan of an exported graph.

    Args:
        graph: FP32 ONNX file.
        exported: how it was made: the BatchNorms kept, and what was equalized.
        options: for rules, weights and scales; with a plan, that plan is put on this graph.

    Raises:
        PlanError: `options.rules` do not fit the graph, or `options.plan` does not.
    """
    model = load_outline(graph)
    allowed = {**options.allow, **unfoldable_allowance(exported.unfoldable)}
    settled = {"allowed": allowed, "channel_equalization": exported.channel_equalization}
    if options.plan is not None:
        return replan(model, options.plan).model_copy(update=settled)
    plan = plan_classifier(
        model,
        rules=options.rules,
        weights=options.weights,
        shared_add=options.shared_add is not False,
        keep_batchnorm=tuple(exported.kept),
        transformer=options.transformer,
    )
    plan = float_additions(model, plan) if options.float_adds else plan
    return plan.model_copy(update=settled)


def judge_graphs(
    directory: Path,
    task: ImageTask[Any],
    examples: Examples[Any] | None,
    images: ImageSet,
    source: ModelSource,
    *,
    threads: int | None,
    advance: Callable[[int], None],
    timing: Timing = DEFAULT_TIMING,
    further: Sequence[Further] = (),
    advance_further: Callable[[int], None] | None = None,
) -> tuple[Quality, tuple[Figures, ...]]:
    """Judge the graphs of a quantized directory: the one that `made_graph` names, and further ones by accuracy alone.

    One of `images` is timed; without `examples`, some of every folder are what the graphs are compared on.

    Args:
        directory: with both graphs.
        task: what they are for.
        examples: labelled images; None where there are none.
        images: any real ones.
        source: gives the class names and the preprocessing.
        threads: of one operator.
        advance: called with the number of images just judged.
        timing: how long latency is measured.
        further, advance_further: as for `edgeq.quality.judge.judge`.

    Raises:
        ImageError: no image can be read, or examples and classes do not match.
        EngineError: a graph does not run.
    """
    made = made_graph(directory)
    return judge(
        directory / FP32,
        made,
        further,
        task,
        examples,
        source,
        spread_images(images, source, labelled=examples is not None),
        backend=backend_of_graph(made.name),
        threads=threads,
        timing=timing,
        advance=advance,
        advance_further=advance_further,
    )


def counter(report: Progress, stage: str, total: int) -> Callable[[int], None]:
    """A callback that adds up what it is given and reports the sum.

    Args:
        report: told (stage, sum, total), at once and each time.
        stage: its name.
        total: of what is counted; 0 where that is not known.
    """
    done = 0
    report(stage, 0, total)

    def advance(count: int) -> None:
        nonlocal done
        done += count
        report(stage, done, total)

    return advance
