"""The main job, from a folder to a judged bundle: one function, a stage a line.

It is an INT8 bundle, unless it is a transformer's and the gate says that INT8 is not worth having.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from edgeq.bundle.manifest import Manifest, write_manifest
from edgeq.calibrate.diagnose import Diagnosis, diagnose
from edgeq.calibrate.samples import ImageSamples
from edgeq.calibrate.scales import Scales, Trial
from edgeq.calibrate.stage import SCALES
from edgeq.engine.registry import DEFAULT, backend, require
from edgeq.errors import ImageError
from edgeq.export.stage import FP32, ExportReport, export_model
from edgeq.families.two_tower import encoder_notes
from edgeq.files import new_directory
from edgeq.model.checkpoint.source import ModelSource, open_model
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.preprocess import Preprocess
from edgeq.pipeline.keep_float import keep_float
from edgeq.pipeline.search import Found, halves, save_found, search_graph
from edgeq.pipeline.stages import (
    Options,
    Progress,
    calibrate_graph,
    counter,
    judge_graphs,
    observe_some,
    parity_images,
    plan_graph,
    planned_tensors,
)
from edgeq.plan.facts import Facts, image_facts
from edgeq.plan.guards import GuardFinding, check
from edgeq.plan.precision import Precision, PrecisionPlan, WeightGranularity, WeightRounding
from edgeq.plan.rules import WEIGHTED
from edgeq.quality.gate import Gate, decide, is_gated
from edgeq.quality.judge import Quality
from edgeq.quality.tasks.base import Examples, ImageTask
from edgeq.quality.tasks.classification import Classification
from edgeq.quality.tasks.registry import choose_task, recorded
from edgeq.quantize.engine_inputs import write_classifier_inputs
from edgeq.quantize.equalize.record import EqualizationRecord
from edgeq.quantize.equalize.stage import equalize_channels
from edgeq.quantize.int8.select import resolve
from edgeq.quantize.int8.stage import made_graph, quantize
from edgeq.quantize.search.layer_search import Search
from edgeq.runtime.canary.class_canaries import make_class_canaries

__all__ = ["Options", "Prepared", "Progress", "prepare"]

_GUESSED_AMONG = 2
"""Classes, at least, among which guessing is one."""
_DEVIATIONS = 2.0
"""Standard deviations above guessing that FP32 must be to have seen something."""

QUALITY = "quality.json"
GATE = "gate.json"


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
        uncorrected: layers of which something could not be corrected, and why.
        int8_layers, fp16_layers, fp32_layers: layers with weights, by precision. ONNX Runtime's CPU runs FP16 as FP32.
        search: which layers a bound on the drop keeps in floating point; `quality` is then that of the images that were
            not searched. Of a transformer that was kept in floating point, it is that of the INT8 graph that was tried.
        gate: what was decided about a transformer's INT8 graph; None for other networks, whose graph is always kept.
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
    preprocess: Preprocess | None = None,
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
        preprocess: replaces the model's preprocessor_config.json.
        options: see `Options`.
        progress: called as the stages go on.

    Raises:
        EdgeqError: any of them; nothing is left behind then. GuardError: a guard said no.
    """
    options = (options or Options()).settled()
    require(backend(options.backend))
    report = progress or (lambda _stage, _done, _total: None)
    with new_directory(output) as work:
        report("open", 0, 0)
        source = open_model(model, preprocess=preprocess)
        task = choose_task(options.task, source.config)
        source = replace(source, config=recorded(task, source.config))
        images = ImageSet.open(calibration).sample(options.calibration_images)
        samples = ImageSamples(images, source.preprocess)
        examples = task.open(labelled, source.labels) if labelled else None
        proof = parity_images(images, source)
        notes = encoder_notes(source.config, (source.preprocess.height, source.preprocess.width))
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
        )
        graph = work / FP32
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
        scales, skipped = calibrate_graph(graph, plan, planned_tensors(graph, plan), samples, options, report)
        plan = resolve(plan, scales)
        scales.save(work / SCALES)
        found, examples = _search(work, plan, scales, source, images, task, examples, options, report)
        plan = found.plan if found else plan
        report("quantize", 0, 0)
        quantize(graph, plan, scales, source.preprocess, work, backend=options.backend)
        write_classifier_inputs(work, plan, scales)
        advance = counter(report, "judge", len(examples) if examples else 0)
        quality = judge_graphs(
            work, task, examples, images, source, threads=options.threads, timing=options.timing, advance=advance
        )
        plan, gate = _gate(work, plan, quality, proof, options)
        running = FP32 if gate and not gate.passed else made_graph(work).name
        judged_by = _images(examples)
        make_class_canaries(
            work, judged_by or images, source.preprocess, fp32=FP32, int8=running, threads=options.threads
        )
        diagnosis = diagnose(scales, observe_some(graph, tuple(scales.tensors), judged_by, source, options.threads))
        allowed = {finding.code: finding.because for finding in findings}
        manifest = write_manifest(work, labels=source.labels or (), allowed=allowed)
    search = found.search if found else None
    notes = (*_at_chance(quality.answers, len(source.labels or ())), *notes)
    return _summary(
        output, exported, channels, plan, scales, skipped, search, quality, gate, diagnosis, findings, manifest, notes
    )


def _images(examples: Examples[Any] | None) -> ImageSet | None:
    return None if examples is None else examples.images


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


def _gate(
    work: Path, plan: PrecisionPlan, quality: Quality, images: NDArray[np.float32], options: Options
) -> tuple[PrecisionPlan, Gate | None]:
    """Ask the gate about a transformer's INT8 graph; where it says no, floating point takes the graph's place.

    Returns:
        The plan of what the bundle runs, and the decision; `quality.json` is written of INT8 that was kept.
    """
    gate = decide(quality, options.gate) if is_gated(plan) else None
    if gate is not None:
        gate.save(work / GATE)
    if gate is None or gate.passed:
        quality.save(work / QUALITY)
        return plan, gate
    because = f"INT8 is not worth it: {'; '.join(gate.objections)}"
    return keep_float(work, plan, images, because=because, threads=options.threads), gate


def _summary(
    output: Path,
    exported: ExportReport,
    channels: EqualizationRecord | None,
    plan: PrecisionPlan,
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
    for objection in gate.objections if gate else ():
        yield f"floating point was kept: {objection}"


def _at_chance(answers: Classification | None, classes: int) -> Iterator[str]:
    """Says where FP32 itself does no better than guessing: INT8 then loses nothing, whatever it does."""
    if answers is None or classes < _GUESSED_AMONG:
        return
    chance = 1.0 / classes
    most = chance + _DEVIATIONS * math.sqrt(chance * (1.0 - chance) / answers.images)
    if answers.top1_reference <= 100.0 * most:
        yield (
            f"FP32 itself is right for {answers.top1_reference:.2f} % of {answers.images} images, no better than "
            f"guessing among {classes} classes: the preprocessing may be another (BGR, mean and std for 0..255), or "
            "id2label in another order"
        )


def _unjudged(quality: Quality) -> Iterator[str]:
    if quality.headline is None or not quality.headline.labelled:
        yield "no labelled images were given (--eval): what the INT8 network answers was not judged"
