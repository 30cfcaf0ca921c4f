"""Which layers does INT8 harm most, and which should stay in floating point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import onnx

from edgeq.bundle.manifest import MANIFEST, read_manifest
from edgeq.calibrate.samples import ImageSamples
from edgeq.calibrate.scales import Scales
from edgeq.calibrate.stage import SCALES
from edgeq.errors import ArtifactError, ImageError, shell_word
from edgeq.export.stage import FP32, ExportReport
from edgeq.files import new_directory
from edgeq.model.checkpoint.source import ModelSource, open_model
from edgeq.model.graph.outline import load_outline
from edgeq.model.images.image_set import ImageSet
from edgeq.pipeline.fit_task import choose_for, refit_task
from edgeq.pipeline.search import Found, halves, save_found, search_graph
from edgeq.pipeline.stages import Progress
from edgeq.plan.precision import PrecisionPlan
from edgeq.plan.rules import plan_classifier
from edgeq.quality.tasks.registry import choose_task
from edgeq.quantize.int8.pixels import PixelInput
from edgeq.quantize.int8.select import resolve
from edgeq.quantize.int8.stage import PLAN, check_scales
from edgeq.quantize.search.bounds import MAX_SHARE, RaceBounds, SearchBounds
from edgeq.quantize.search.chart import draw_sensitivity
from edgeq.quantize.search.sensitivity import TABLE, Sensitivity, measure_sensitivity
from edgeq.track.record import search_record, sensitivity_record
from edgeq.track.registry import open_trackers, record_on

__all__ = ["CHARTS", "search_layers", "sensitivity"]

CHARTS = ("sensitivity.svg", "sensitivity.png")

_BOUNDS = RaceBounds()


def sensitivity(
    directory: str | Path,
    images: str | Path,
    output: str | Path | None = None,
    *,
    scales: str | Path | None = None,
    worst: float = _BOUNDS.worst,
    others: float = _BOUNDS.others,
    threads: int | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
    track: str | Sequence[str] = (),
) -> Sensitivity:
    """Measure what INT8 does in each layer alone, and what leaving that layer out of INT8 gains.

    Args:
        directory: made by `quantize_model` or `prepare`; one made by `export_model` needs `scales`.
        images: a folder or zip; folders named after classes give top-1 as well. A layer sees only as many of them as
            its figure needs.
        output: a directory to make for the table and its charts; None writes nothing.
        scales: a file made by `calibrate_model`, where the directory has none.
        worst: standard error at which one of the ten worst layers has seen enough, as a part of its figure.
        others: likewise for the other layers.
        threads: of one operator; None takes every processor there is.
        progress: called as the stages go on.
        say: told what a person should know, in a sentence.
        track: experiment trackers that get the figures, such as `mlflow:http://127.0.0.1:5000` or `tensorboard:runs`.
            One that fails at the end is told to `say`.

    Returns:
        The table; `ranking()` has the worst layer first.

    Raises:
        ArtifactError: the directory is not what it should be. CalibrationError: the scales are of another graph.
        ImageError: the images cannot be read.
        InputError: a tracker cannot be written to.
        OutputError: the output exists, or cannot be written.
    """
    place, tell = Path(directory), say or (lambda _sentence: None)
    trackers = open_trackers(track)
    found, plan = _artifacts(place, Path(scales) if scales else None)
    source, shown = open_model(place / FP32), ImageSet.open(Path(images))
    model = onnx.load(place / FP32)
    table, skipped = measure_sensitivity(
        model,
        plan,
        found,
        ImageSamples(shown, source.preprocess),
        pixels=PixelInput.of(source.preprocess),
        truth=_truth(model, source, shown, tell),
        bounds=RaceBounds(worst, others),
        threads=threads,
        report=progress or (lambda _stage, _done, _total: None),
    )
    if output is not None:
        with new_directory(Path(output)) as work:
            table.save(work / TABLE)
            for name in CHARTS:
                draw_sensitivity(table, work / name, plan=plan)
    if skipped:
        tell(f"{len(skipped)} images cannot be read: {', '.join(skipped[:5])}")
    given = {"directory": place, "images": images, "worst": worst, "others": others}
    charts = () if output is None else tuple(Path(output) / name for name in CHARTS)
    for warning in record_on(trackers, lambda: sensitivity_record(table, given, charts)):
        tell(warning)
    return table


def search_layers(
    directory: str | Path,
    labelled: str | Path,
    output: str | Path | None = None,
    *,
    max_drop: float,
    max_share: float = MAX_SHARE,
    min_speedup: float | None = None,
    scales: str | Path | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
    track: str | Sequence[str] = (),
) -> Found:
    """Find the cheapest set of layers to leave in floating point, on half of the images, and judge it by the other.

    Args:
        directory: as for `sensitivity`.
        labelled: a folder or zip of images in folders named after their class, 100 at the least.
        output: a directory to make for the revised plan, for `quantize_model`, and the search; None writes nothing.
        max_drop: points of top-1 that may be lost.
        max_share: percent of the weighted layers' bytes that may stay in floating point.
        min_speedup: times FP32's speed that must be left at batch 1; None does not measure it.
        scales: as for `sensitivity`.
        threads: of one operator; None takes every processor there is.
        progress: called as the stages go on.
        say: as for `sensitivity`.
        track: likewise.

    Returns:
        The plan with the layers kept, and how it was found.

    Raises:
        GateError: no set of layers within the budget keeps the drop within its bound.
        ArtifactError, CalibrationError, ImageError, InputError, OutputError: as for `sensitivity`.
    """
    place, tell = Path(directory), say or (lambda _sentence: None)
    trackers = open_trackers(track)
    found, plan = _artifacts(place, Path(scales) if scales else None)
    source, task = choose_for(open_model(place / FP32), None)
    examples = task.open(Path(labelled), source.labels)
    task = refit_task(task, source, place, examples.images, threads=threads)
    bounds = SearchBounds(max_drop, max_share=max_share, min_speedup=min_speedup)
    made = search_graph(
        place / FP32,
        plan,
        found,
        source,
        halves(examples.images)[0],
        task,
        examples,
        bounds,
        threads=threads,
        report=progress or (lambda _stage, _done, _total: None),
    )
    if output is not None:
        with new_directory(Path(output)) as work:
            save_found(made, work)
            made.plan.save(work / PLAN)
    given = {"directory": place, "images": labelled, "options": bounds}
    for warning in record_on(trackers, lambda: search_record(made.search, made.table, given)):
        tell(warning)
    return made


def _artifacts(directory: Path, scales_file: Path | None) -> tuple[Scales, PrecisionPlan]:
    """The scales and the plan of a directory, made sure to belong to its graph."""
    if (directory / MANIFEST).exists():
        read_manifest(directory)
    report = ExportReport.load(directory)
    if scales_file is None and not (directory / SCALES).is_file():
        raise ArtifactError(
            f"{directory} has no {SCALES}",
            expected="a directory made by edgeq quantize or edgeq prepare, or --scales",
            next_step=f"edgeq calibrate {shell_word(directory)} --images IMAGES -o scales.json; then --scales that",
        )
    scales = Scales.load(scales_file or directory / SCALES)
    check_scales(directory / FP32, scales)
    if (directory / PLAN).is_file():
        return scales, PrecisionPlan.load(directory / PLAN)
    plan = plan_classifier(load_outline(directory / FP32), keep_batchnorm=tuple(report.kept))
    return scales, resolve(plan, scales, directory / FP32)


def _truth(
    model: onnx.ModelProto, source: ModelSource, images: ImageSet, tell: Callable[[str], None]
) -> dict[str, int] | None:
    """The class of each image by its name, where that is what the task asks for; None where folders are no classes."""
    classes = model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    try:
        found = choose_task(None, source.config).folder_classes(images, source.labels, classes)
    except ImageError as error:
        tell(f"no top-1: {error.what}")
        return None
    return None if found is None else {item.name: found[str(item.label)] for item in images.items}
