"""The stages of the main job one at a time, each reading the artifact of the one before."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from edgeq.bundle.manifest import MANIFEST, read_manifest
from edgeq.calibrate.choices import AUTO, CALIBRATION_IMAGES
from edgeq.calibrate.on_ray import OnRay
from edgeq.calibrate.samples import ImageSamples
from edgeq.calibrate.scales import Scales
from edgeq.calibrate.stage import SCALES
from edgeq.cluster.connect import STALL_MINUTES, Cluster, require_ray
from edgeq.engine.registry import backend, backend_of_graph, require
from edgeq.export.input_adapter import open_image_model
from edgeq.export.stage import CONFIG, EXPORT, FP32, PREPROCESS, ExportReport, foresee_outputs
from edgeq.export.stage import export_model as export_graph
from edgeq.files import new_directory, require_new
from edgeq.model.checkpoint.source import open_model
from edgeq.model.graph.element_types import unfit_layers
from edgeq.model.graph.onnx_file import load_onnx
from edgeq.model.graph.outline import load_outline
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.preprocess import Preprocess
from edgeq.model.images.preprocess_flags import PreprocessFlags
from edgeq.pipeline.fit_task import choose_for, refit_task
from edgeq.pipeline.stages import (
    PARITY_IMAGES,
    Options,
    Progress,
    calibrate_graph,
    counter,
    expected_answer,
    judge_graphs,
    observed_tensors,
    parity_images,
    plan_graph,
    planned_tensors,
)
from edgeq.plan.facts import Facts
from edgeq.plan.guards import GuardFinding, check
from edgeq.plan.precision import ChannelEqualization, PrecisionPlan, WeightRounding
from edgeq.plan.rules import keep_range, plan_classifier
from edgeq.quality.judge import Quality
from edgeq.quality.latency import DEFAULT_TIMING, Timing
from edgeq.quantize.equalize.record import EqualizationRecord
from edgeq.quantize.equalize.stage import equalize_channels
from edgeq.quantize.int8.select import resolve
from edgeq.quantize.int8.stage import made_graph, quantize

__all__ = [
    "Calibrated",
    "Exported",
    "Quantized",
    "calibrate_model",
    "evaluate",
    "export_model",
    "quantize_model",
]


@dataclass(frozen=True)
class Exported:
    """What the export made.

    Attributes:
        directory: is a MODEL itself.
        report: what was folded and proved.
        channels: how the channels before linear layers were rescaled; None where nothing was looked at.
    """

    directory: Path
    report: ExportReport
    channels: EqualizationRecord | None


@dataclass(frozen=True)
class Calibrated:
    """What the calibration found.

    Attributes:
        scales: of every tensor that needs one.
        skipped: names of images that could not be read.
    """

    scales: Scales
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class Quantized:
    """What the quantization made.

    Attributes:
        directory: with a graph for each backend, and the FP32 graph.
        plan: the precision of every layer.
        guards: those that were tripped and allowed.
    """

    directory: Path
    plan: PrecisionPlan
    guards: tuple[GuardFinding, ...]


def export_model(
    model: str | Path,
    images: str | Path,
    output: str | Path,
    *,
    fold: bool = True,
    keep_batchnorm: tuple[str, ...] = (),
    strict: bool = False,
    channel_equalization: ChannelEqualization = "auto",
    outputs: tuple[str, ...] = (),
    preprocess: Preprocess | PreprocessFlags | None = None,
    threads: int | None = None,
) -> Exported:
    """Export an image classifier or encoder to ONNX, fold its BatchNorm, and prove that it computes the same.

    Args:
        model: a directory with model.onnx, a Hugging Face directory, or a Hugging Face id.
        images: a folder or zip of real images.
        output: a directory to make; it must not exist.
        fold: fold BatchNorm; False is for comparison.
        keep_batchnorm: BatchNorm nodes that stay, in FP32.
        strict: a BatchNorm that cannot be folded is an error; without it, it stays in FP32.
        channel_equalization: `none`, `repq`, `smooth`, `smooth:0.5`, `repq-smooth` or `auto`.
        outputs: names of the graph's outputs that are the answer; empty leaves that to the labels.
        preprocess: replaces the model's preprocessor_config.json; flags say single steps over it.
        threads: of one operator; None takes every processor there is.

    Raises:
        ModelError, ImageError: the model or the images cannot be read; it is not plain which output is the answer.
        ExportError: it cannot be exported or folded. ParityError: the graph made computes something else.
        PlanError: an equalization was asked for that is exact nowhere.
        OutputError: the output exists, or cannot be written.
    """
    source, task = choose_for(open_image_model(model, preprocess=preprocess), None)
    expected = expected_answer(source, task, None, outputs)
    foresee_outputs(source, expected)
    found = ImageSet.open(Path(images), calibration=True)
    proof = parity_images(found.sample(PARITY_IMAGES), source)
    with new_directory(Path(output)) as work:
        report = export_graph(
            source,
            work,
            proof,
            fold=fold,
            keep_batchnorm=keep_batchnorm,
            strict=strict,
            threads=threads,
            expected=expected,
        )
        plan = plan_graph(work / FP32, report, Options())
        some = ImageSamples(found.sample(CALIBRATION_IMAGES), source.preprocess)
        singles = np.split(proof, len(proof))
        report, _, channels = equalize_channels(
            work, report, plan, some, singles, channel_equalization, threads=threads
        )
    return Exported(Path(output), report, channels)


def calibrate_model(
    exported: str | Path,
    images: str | Path,
    output: str | Path,
    *,
    calibration_images: int = CALIBRATION_IMAGES,
    method: str = AUTO,
    weight_rounding: WeightRounding = "auto",
    bias_correction: bool | None = None,
    resume: bool = False,
    every_activation: bool = False,
    threads: int | None = None,
    on: Literal["here", "ray"] = "here",
    address: str = "auto",
    actors: int | None = None,
    cpus_per_actor: int = 1,
    stall_minutes: float = STALL_MINUTES,
    progress: Progress | None = None,
) -> Calibrated:
    """Run an exported graph over images and write the range of every tensor that needs a scale.

    The scales do not depend on the order of the images, on how they are batched, or on where they are counted.

    Args:
        exported: a directory made by `export_model`.
        images: a folder or zip of calibration images.
        output: a scales file to make (JSON); it must not exist.
        calibration_images: use at most so many.
        method: how a histogram becomes a range: `minmax`, `entropy`, `percentile`, `mse`, `auto` or `search`.
        weight_rounding: `nearest`, `adaround`, or `auto`, which tries it with `search` or where INT8 is far from FP32.
        bias_correction: biases take back what quantization shifts on average; None as `auto`.
        resume: save on the way to OUTPUT.partial, and go on from it where it exists.
        every_activation: observe more than edgeq's own graphs need, for a TensorRT calibration cache.
        threads: of one operator; None takes every processor there is, and in an actor as many as it has CPUs.
        on: `here` in this process; `ray` has the images counted by actors of a cluster whose nodes all see graph and
            images at the same paths. What follows, such as the trials of `auto`, is done here in any case.
        address: of the cluster, HOST:PORT; `auto` is RAY_ADDRESS, else the one that this machine belongs to.
        actors: how many; None takes as many as there is room for.
        cpus_per_actor: of the cluster's.
        stall_minutes: without an image counted anywhere in so many, the cluster is given up.
        progress: called as the stages go on.

    Raises:
        ArtifactError: the directory was not made by `export_model`, or was changed since.
        ImageError: the images cannot be read.
        CalibrationError: no scale can be given to a tensor.
        InputError: the cluster cannot be used. EngineError: nothing goes on in it.
        OutputError: the output exists, or cannot be written.
    """
    directory, file = Path(exported), Path(output)
    require_new(file)
    partial = file.with_name(f"{file.name}.partial")
    options = Options(
        calibration_images=calibration_images,
        method=method,
        weight_rounding=weight_rounding,
        bias_correction=bias_correction,
        threads=threads,
    )
    cluster = Cluster(address, actors, cpus_per_actor, stall_minutes) if on == "ray" else None
    if cluster is not None:
        require_ray()
    ExportReport.load(directory)
    found = ImageSet.open(Path(images), calibration=True).sample(calibration_images)
    source, task = choose_for(open_model(directory), None)
    task = refit_task(task, source, directory, found, threads=threads)
    graph = directory / FP32
    plan = plan_classifier(load_outline(graph))
    tensors = observed_tensors(graph) if every_activation else planned_tensors(graph, plan)
    scales, skipped = calibrate_graph(
        graph,
        plan,
        tensors,
        ImageSamples(found, source.preprocess),
        options,
        progress or (lambda _stage, _done, _total: None),
        checkpoint=partial if resume else None,
        counting=None
        if cluster is None
        else OnRay(cluster, graph, tensors, Path(images), source.preprocess, threads=threads),
        task=task,
    )
    scales.save(file)
    partial.unlink(missing_ok=True)
    return Calibrated(scales, skipped)


def quantize_model(
    exported: str | Path,
    scales: Scales | str | Path,
    output: str | Path,
    *,
    plan: PrecisionPlan | None = None,
    options: Options | None = None,
) -> Quantized:
    """Put scales into an exported graph: INT8 for ONNX Runtime and for TensorRT, and the plan beside them.

    Args:
        exported: a directory made by `export_model`.
        scales: made by `calibrate_model` for this graph, or their file.
        output: a directory to make; it must not exist.
        plan: a plan to follow, in the place of the built-in rules.
        options: rules, allowances, granularity of the weights, backend; what is about other stages is not looked at.

    Raises:
        ArtifactError: an input is not what it should be.
        PlanError: the rules or the plan do not fit the graph.
        CalibrationError: the scales are of another graph, or lack a tensor.
        QuantizeError: a graph made differs from the plan.
        GuardError: a guard said no.
        EngineError: the backend is not installed.
        OutputError: the output exists, or cannot be written.
    """
    asked = options or Options()
    require(backend(asked.backend))
    directory, graph = Path(exported), Path(exported) / FP32
    report = ExportReport.load(directory)
    found = scales if isinstance(scales, Scales) else Scales.load(Path(scales))
    preprocess = open_model(graph).preprocess
    named = tuple(name for name in report.kept if name not in report.unfoldable)
    settled = replace(asked, keep_batchnorm=named, plan=plan or asked.plan).settled()
    decided = plan_graph(graph, report, settled)
    findings = check(_facts(decided, found, preprocess), decided.allowed)
    if settled.shared_add is None:
        decided = resolve(decided, found, graph)
    decided = keep_range(load_outline(graph), decided, found.beyond_fp16 or unfit_layers(load_onnx(graph)))
    with new_directory(Path(output)) as work:
        quantize(graph, decided, found, preprocess, work, backend=settled.backend)
        found.save(work / SCALES)
        for name in (FP32, PREPROCESS, CONFIG, EXPORT):
            shutil.copyfile(directory / name, work / name)
    return Quantized(Path(output), decided, tuple(findings))


def evaluate(
    quantized: str | Path,
    labelled: str | Path,
    *,
    task: str | None = None,
    detector_head: str | None = None,
    threads: int | None = None,
    timing: Timing = DEFAULT_TIMING,
    progress: Progress | None = None,
) -> Quality:
    """Judge a quantized network against its FP32 source on labelled images, image by image.

    Args:
        quantized: a directory made by `quantize_model`, or a classifier's bundle. Of a bundle that was kept in floating
            point, the FP16 graph is judged.
        labelled: a folder or zip of images in folders named after their class, or as the task has them.
        task: what the network is for, such as `multilabel`; None leaves that to the model's config.
        detector_head: kind of a detector's outputs, such as `yolov8`; None leaves that to the bundle, or the outputs.
        threads: of one operator; None takes every processor there is.
        timing: how long latency is measured.
        progress: called as (`judge`, images done, images in all).

    Raises:
        ArtifactError: the directory holds no such graphs, or was changed.
        ImageError: the images cannot be read, or their folders are no classes of the model.
        EngineError: the backend that it was made for is not installed, or a graph does not run.
    """
    directory = Path(quantized)
    if (directory / MANIFEST).exists():
        read_manifest(directory)
    ExportReport.load(directory)
    require(backend_of_graph(made_graph(directory).name))
    source, chosen = choose_for(open_model(directory / FP32), task, detector_head)
    examples = chosen.open(Path(labelled), source.labels)
    chosen = refit_task(chosen, source, directory, examples.images, head=detector_head, threads=threads)
    advance = counter(progress or (lambda _stage, _done, _total: None), "judge", len(examples))
    quality, _ = judge_graphs(
        directory, chosen, examples, examples.images, source, threads=threads, timing=timing, advance=advance
    )
    return quality


def _facts(plan: PrecisionPlan, scales: Scales, preprocess: Preprocess) -> Facts:
    images = scales.images + scales.held_back
    return Facts(
        plan=plan,
        calibration_images=images or None,  # scales from a TensorRT cache do not tell
        calibration_preprocess=scales.preprocess_sha256,
        evaluation_preprocess=preprocess.digest,
    )
