"""The main job, from a folder to a judged bundle: one function, a stage a line.

It is an INT8 bundle, unless the gate says that INT8 is not worth having.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from edgeq.bundle.manifest import Manifest
from edgeq.bundle_report.changed import save_changed
from edgeq.calibrate.diagnose import Diagnosis, diagnose
from edgeq.calibrate.samples import ImageSamples
from edgeq.calibrate.scales import Scales, Trial
from edgeq.calibrate.stage import SCALES
from edgeq.engine.registry import DEFAULT, backend, require
from edgeq.errors import ImageError
from edgeq.export.input_adapter import open_image_model
from edgeq.export.stage import FP32, ExportReport, export_model, foresee_outputs
from edgeq.families.two_tower import encoder_notes
from edgeq.files import new_directory
from edgeq.model.checkpoint.source import ModelSource
from edgeq.model.graph.outline import load_outline
from edgeq.model.graph.outputs import read_outputs
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.preprocess import Preprocess
from edgeq.model.images.preprocess_flags import PreprocessFlags
from edgeq.pipeline.finish import finish_bundle
from edgeq.pipeline.fit_task import choose_for, fit_task
from edgeq.pipeline.gate import Judging, settle
from edgeq.pipeline.preprocess_check import better_ways, nearly_black
from edgeq.pipeline.search import Found, halves, save_found, search_graph
from edgeq.pipeline.stages import (
    Options,
    Progress,
    calibrate_graph,
    check_classes,
    counter,
    expected_answer,
    observe_some,
    parity_images,
    plan_graph,
    planned_tensors,
)
from edgeq.plan.facts import Facts, image_facts
from edgeq.plan.guards import GuardFinding, check
from edgeq.plan.precision import Precision, PrecisionPlan, WeightGranularity, WeightRounding
from edgeq.plan.rules import WEIGHTED, left_in_float
from edgeq.quality.gate import Gate
from edgeq.quality.judge import Quality
from edgeq.quality.tasks.base import Examples, ImageTask
from edgeq.quality.tasks.classification import Classification
from edgeq.quantize.engine_inputs import write_classifier_inputs
from edgeq.quantize.equalize.record import EqualizationRecord
from edgeq.quantize.equalize.stage import equalize_channels
from edgeq.quantize.int8.select import resolve
from edgeq.quantize.int8.stage import quantize
from edgeq.quantize.search.layer_search import Search
from edgeq.runtime.canary.class_canaries import make_class_canaries
from edgeq.runtime.canary.draw_compared import draw_compared

__all__ = ["Options", "Prepared", "Progress", "prepare"]

_GUESSED_AMONG = 2
"""Classes, at least, among which guessing is one."""
_DEVIATIONS = 2.0
"""Standard deviations above guessing that FP32 must be to have seen something."""


class Prepared(BaseModel):
    """Everything that was done and measured.

    Attributes:
        bundle: the directory made.
        channels: how the channels before linear layers were rescaled; None where nothing was looked at.
        calibration_images: how many were used.
        held_back: how many of them `auto` judged by instead of counting them.
        calibration_skipped: calibration images that could not be read.
        method: whose ranges ONNX Runtime's graph got.
        trials: what `auto` tried, on images held back from calibration.
        weight_rounding: how INT8 weights were rounded.
        bias_correction: whether biases take back what quantization shifts.
        float_additions: residual additions that stay in FP32 beside INT8 layers, by name.
        float_layers: layers that a search left in FP32, and the percent of all multiplications that each is.
        uncorrected: layers of which something could not be corrected, and why.
        int8_layers, fp16_layers, fp32_layers: layers with weights, by precision. ONNX Runtime's CPU runs FP16 as FP32.
        search: which layers a bound on the drop keeps in floating point; `quality` is then that of the images that were
            not searched. Where floating point was kept, it is that of the INT8 graph that was tried.
        gate: what was decided about the INT8 graphs; None where the plan has no INT8 layer.
        diagnosis: whether the calibration set is large enough, and like the evaluation images.
        guards: those that were tripped and allowed.
        warnings: what a careful reader should know.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: Path
    export: ExportReport
    channels: EqualizationRecord | None
    calibration_images: int
    held_back: int
    calibration_skipped: tuple[str, ...]
    method: str
    trials: tuple[Trial, ...]
    weights: WeightGranularity
    weight_rounding: WeightRounding = "nearest"
    bias_correction: bool = False
    float_additions: tuple[str, ...] = ()
    float_layers: dict[str, float] = Field(default_factory=dict)
    uncorrected: dict[str, str] = Field(default_factory=dict)
    int8_layers: int
    fp16_layers: int
    fp32_layers: int
    search: Search | None
    quality: Quality
    gate: Gate | None
    diagnosis: Diagnosis
    guards: tuple[GuardFinding, ...]
    warnings: tuple[str, ...]
    manifest: Manifest


def prepare(
    model: str | Path,
    calibration: Path,
    output: Path,
    *,
    labelled: Path | None = None,
    preprocess: Preprocess | PreprocessFlags | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Make a bundle of an image classifier or an image encoder.

    Args:
        model: an ONNX or Hugging Face directory, or a Hugging Face id.
        calibration: a folder or zip of images.
        output: the bundle's directory; it must not exist, and exists only once all has succeeded.
        labelled: what answers are judged by, as the task reads it: for a classifier, a folder or zip of images in
            folders named after their class; without it answers are not judged.
        preprocess: replaces the model's preprocessor_config.json; flags say single steps over it.
        options: see `Options`.
        progress: called as the stages go on.

    Raises:
        EdgeqError: any of them; nothing is left behind then. GuardError: a guard said no.
    """
    options = (options or Options()).settled()
    require(backend(options.backend))
    report = progress or (lambda _stage, _done, _total: None)
    begun = time.monotonic()
    with new_directory(output) as work:
        report("open", 0, 0)
        opened = open_image_model(model, preprocess=preprocess)
        source, task = choose_for(opened, options.task, options.detector_head)
        images = ImageSet.open(calibration, calibration=True).sample(options.calibration_images)
        samples = ImageSamples(images, source.preprocess)
        examples = task.open(labelled, source.labels) if labelled else None
        expected = expected_answer(source, task, examples, options.outputs)
        foreseen = foresee_outputs(source, expected)
        check_classes(task, examples, source, foreseen.chosen[0].numbers if foreseen else None)
        proof = parity_images(images, source)
        notes = (
            *source.notes,
            *images.notes,
            *nearly_black(proof, source.preprocess),
            *encoder_notes(source.config, (source.preprocess.height, source.preprocess.width)),
        )
        facts = image_facts(images, _images(examples), source.config)
        findings = check(replace(facts, pixel_deviation=float(proof.std(axis=(0, 2, 3)).max())), options.allow)
        report("export", 0, 0)
        exported = export_model(
            source,
            work,
            proof,
            fold=options.fold,
            keep_batchnorm=options.keep_batchnorm,
            strict=options.strict,
            threads=options.threads,
            expected=expected,
        )
        graph = work / FP32
        task = fit_task(task, source, graph, proof, head=options.detector_head, threads=options.threads)
        task.record(work)
        check_classes(task, examples, source, read_outputs(load_outline(graph))[0].numbers)
        plan = plan_graph(graph, exported, options)
        findings += check(Facts(plan=plan), plan.allowed)
        exported, plan, channels = equalize_channels(
            work,
            exported,
            plan,
            samples,
            np.split(proof, len(proof)),
            options.channel_equalization,
            threads=options.threads,
            begin=partial(counter, report, "fold"),
        )
        scales, skipped = calibrate_graph(
            graph, plan, planned_tensors(graph, plan), samples, options, report, task=task
        )
        before, plan = plan, resolve(plan, scales, graph)
        additions = left_in_float(before, plan)
        scales.save(work / SCALES)
        found, examples = _search(work, plan, scales, source, images, task, examples, options, report)
        plan = found.plan if found else plan
        report("quantize", 0, 0)
        quantize(graph, plan, scales, source.preprocess, work, backend=options.backend)
        write_classifier_inputs(work, plan, scales)
        seconds = time.monotonic() - begun
        judging = Judging(work, scales, source, images, proof, task, examples, options, report)
        settled = settle(plan, judging)
        plan, quality, found = settled.plan, settled.quality, settled.found or found
        at_chance = tuple(_at_chance(quality.answers, len(source.labels or ())))
        other_ways = better_ways(
            graph,
            task,
            examples,
            source,
            quality,
            at_chance=bool(at_chance),
            seconds=seconds,
            threads=options.threads,
        )
        examples = settled.examples
        judged_by = _images(examples)
        labels = (source.labels or ()) if exported.names_classes or not task.one_vector else ()
        canaries = make_class_canaries(
            *(work, judged_by or images, source.preprocess),
            fp32=FP32,
            int8=settled.running,
            device=settled.device,
            classes=task.one_vector if labels else None,
            threads=options.threads,
        )
        draw_compared(work, canaries, task, source.preprocess, labels, threads=options.threads)
        diagnosis = diagnose(scales, observe_some(graph, tuple(scales.tensors), judged_by, source, options.threads))
        allowed = {finding.code: finding.because for finding in findings}
        _save_changed(work, quality, judged_by)
        manifest = finish_bundle(work, output.name, model, labels=labels, allowed=allowed, task=task.served_as)
    search = found.search if found else None
    notes = (*at_chance, *other_ways, *notes)
    return _summary(
        output,
        exported,
        channels,
        plan,
        additions,
        scales,
        skipped,
        search,
        quality,
        settled.gate,
        diagnosis,
        findings,
        manifest,
        notes,
    )


def _images(examples: Examples[Any] | None) -> ImageSet | None:
    return None if examples is None else examples.images


def _save_changed(work: Path, quality: Quality, judged_by: ImageSet | None) -> None:
    """Small pictures of the images whose class is another one in INT8."""
    if judged_by is not None:
        items = {item.name: item for item in judged_by.items}
        save_changed(quality, lambda name: judged_by.read(items[name]), work)


def _search(
    work: Path,
    plan: PrecisionPlan,
    scales: Scales,
    source: ModelSource,
    images: ImageSet,
    task: ImageTask[Any],
    examples: Examples[Any] | None,
    options: Options,
    report: Progress,
) -> tuple[Found | None, Examples[Any] | None]:
    """What a search found where one was asked for, and the images left to judge by: those that were not searched."""
    if options.search is None:
        return None, examples
    if examples is None:
        raise ImageError(
            "a bound on the drop was given, and no labelled images to measure it on",
            next_step="give labelled images with --eval",
        )
    found = search_graph(
        work / FP32,
        plan,
        scales,
        source,
        images,
        task,
        examples,
        options.search,
        threads=options.threads,
        report=report,
    )
    save_found(found, work)
    return found, examples.part(halves(examples.images)[1])


def _summary(
    output: Path,
    exported: ExportReport,
    channels: EqualizationRecord | None,
    plan: PrecisionPlan,
    additions: tuple[str, ...],
    scales: Scales,
    skipped: tuple[str, ...],
    search: Search | None,
    quality: Quality,
    gate: Gate | None,
    diagnosis: Diagnosis,
    findings: tuple[GuardFinding, ...],
    manifest: Manifest,
    notes: tuple[str, ...],
) -> Prepared:
    weighted = Counter(decision.precision for decision in plan.decisions if decision.op in WEIGHTED)
    return Prepared(
        bundle=output,
        export=exported,
        channels=channels,
        calibration_images=scales.images + scales.held_back,
        held_back=scales.held_back,
        calibration_skipped=skipped,
        method=scales.method_for(DEFAULT.name),
        trials=scales.trials,
        weights=plan.weights,
        weight_rounding=plan.weight_rounding,
        bias_correction=plan.bias_correction,
        float_additions=additions,
        float_layers=scales.float_layers,
        uncorrected=scales.uncorrected,
        int8_layers=weighted[Precision.INT8],
        fp16_layers=weighted[Precision.FP16],
        fp32_layers=weighted[Precision.FP32],
        search=search,
        quality=quality,
        gate=gate,
        diagnosis=diagnosis,
        guards=findings,
        warnings=(
            *(finding.warning for finding in findings),
            *_unknown(plan),
            *_refused(gate),
            *_unjudged(quality),
            *diagnosis.warnings(),
            *notes,
        ),
        manifest=manifest,
    )


def _unknown(plan: PrecisionPlan) -> Iterator[str]:
    """The operators that no rule knows, each with its layers."""
    layers: dict[str, list[str]] = {}
    for decision in plan.decisions:
        if decision.rule == "fp32-unknown":
            layers.setdefault(decision.op, []).append(decision.layer)
    for op, names in layers.items():
        yield f"the operator {op} is not known here: {len(names)} layers stay in FP32, the first is {names[0]}"


def _refused(gate: Gate | None) -> Iterator[str]:
    """What speaks against INT8, what took its place, the layers at fault, and what the figures do not show."""
    if gate is None:
        return
    kept = "floating point was kept" if gate.enforced else "INT8 was kept, as asked for, although"
    yield from (f"{kept}: {objection}" for objection in gate.objections)
    yield from (
        f"{other.made_for} does not get {other.graph}: {other.reason}" for other in gate.others if not other.kept
    )
    if worst := gate.worst():
        yield worst
    yield from gate.all_doubts()


def _at_chance(answers: Classification | None, classes: int) -> Iterator[str]:
    """Says where FP32 itself is right far more often in another order of its classes, or does no better than guessing.

    INT8 then loses nothing, whatever it does.
    """
    if answers is None or classes < _GUESSED_AMONG:
        return
    if order := answers.likely_order:
        yield (
            f"the labels look permuted: FP32 is right for {answers.top1_reference:.2f} % of {answers.images} images, "
            f"and for {order.top1:.2f} % with the classes in another order ({order.name}): see id2label in config.json"
        )
        return
    chance = 1.0 / classes
    most = chance + _DEVIATIONS * math.sqrt(chance * (1.0 - chance) / answers.images)
    if answers.top1_reference <= 100.0 * most:
        yield (
            f"FP32 itself is right for {answers.top1_reference:.2f} % of {answers.images} images, no better than "
            f"guessing among {classes} classes: the preprocessing may be another (BGR, mean and std for 0..255), or "
            "id2label in an order that these images do not show"
        )


def _unjudged(quality: Quality) -> Iterator[str]:
    if quality.headline is None or not quality.headline.labelled:
        yield "no labelled images were given (--eval): what the INT8 network answers was not judged"
