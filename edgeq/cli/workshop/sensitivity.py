"""`edgeq sensitivity`."""

from __future__ import annotations

from pathlib import Path

import click
import onnx
from click.core import ParameterSource

from edgeq.bundle.manifest import MANIFEST, read_manifest
from edgeq.calibrate.scales import Scales
from edgeq.calibrate.stage import SCALES
from edgeq.cli import console
from edgeq.cli.flags import PATH, json_option, threads_option
from edgeq.cli.workshop.classifier_tables import print_search
from edgeq.cli.workshop.distributions import show_distributions
from edgeq.cli.workshop.options import search_bounds, search_options
from edgeq.errors import ArtifactError, ImageError
from edgeq.export.stage import FP32, ExportReport
from edgeq.files import new_directory
from edgeq.model.checkpoint.source import ModelSource, open_model
from edgeq.model.graph.outline import load_outline
from edgeq.model.images.image_set import ImageSet
from edgeq.pipeline.search import halves, save_found, search_graph
from edgeq.plan.precision import PrecisionPlan
from edgeq.plan.rules import plan_classifier
from edgeq.quality.tasks.registry import choose_task
from edgeq.quantize.int8.pixels import PixelInput
from edgeq.quantize.int8.select import resolve
from edgeq.quantize.int8.stage import PLAN, check_scales
from edgeq.quantize.search.chart import draw_sensitivity
from edgeq.quantize.search.layer_search import SearchBounds
from edgeq.quantize.search.racing import WORST, RaceBounds
from edgeq.quantize.search.sensitivity import TABLE, LayerSensitivity, Sensitivity, measure_sensitivity

__all__ = ["command"]

CHARTS = ("sensitivity.svg", "sensitivity.png")

_BOUNDS = RaceBounds()
_PERCENT = click.FloatRange(0.0, min_open=True)
_ABOUT_LAYERS = ("scales_file", "precision", "searched", "max_drop", "max_float_share", "min_speedup")


@click.command("sensitivity")
@click.argument("directory", type=PATH)
@click.option(
    "--kind",
    type=click.Choice(["layers", "vit"]),
    default="layers",
    show_default=True,
    help="What is looked at: each layer in INT8, or what the tensors of a vision transformer hold.",
)
@click.option("--images", type=PATH, required=True, help="A folder or a zip; folders named after classes give top-1.")
@click.option("--scales", "scales_file", type=PATH, help="Made by `edgeq calibrate`, where DIRECTORY has none.")
@click.option("-o", "--output", type=PATH, help="A directory to make, for the table and its chart; it must not exist.")
@click.option(
    "--precision",
    type=(_PERCENT, _PERCENT),
    default=(100.0 * _BOUNDS.worst, 100.0 * _BOUNDS.others),
    show_default=True,
    metavar="WORST OTHERS",
    help="Errors in percent at which a layer has seen enough images: the ten worst layers, the others.",
)
@click.option(
    "--search", "searched", is_flag=True, help="Find the layers to keep, and write the plan; needs --max-drop."
)
@search_options
@threads_option
@json_option
def command(
    directory: Path,
    kind: str,
    images: Path,
    scales_file: Path | None,
    output: Path | None,
    precision: tuple[float, float],
    searched: bool,
    max_drop: float | None,
    max_float_share: float,
    min_speedup: float | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Find the layers that INT8 harms most: each INT8 layer alone, and each left in floating point.

    DIRECTORY is a bundle or was made by `edgeq quantize`; one made by `edgeq export` needs --scales. A layer sees only
    as many of the images as its figure needs.

    With --search, the cheapest set of layers to leave in floating point is found on half of the images, which must be
    labelled, and judged by the other half: --output then holds the revised plan, for `edgeq quantize --plan`.

    With --kind vit, what a vision transformer's softmax, GELU, LayerNorm, query, key and value hold is shown block by
    block, with a recommendation for each tensor; DIRECTORY may also be a MODEL. That takes 128 of the images.
    """
    if kind == "vit":
        _check_alone()
        show_distributions(directory, ImageSet.open(images), output, threads=threads, as_json=as_json)
        return
    bounds = search_bounds(max_drop, max_float_share, min_speedup)
    if searched != (bounds is not None):
        raise click.UsageError("--search and --max-drop belong together: give both")
    scales, plan = _artifacts(directory, scales_file)
    source = open_model(directory / FP32)
    if bounds is not None:
        _search(directory, plan, scales, source, images, bounds, output, threads, as_json)
        return
    shown = ImageSet.open(images)
    model = onnx.load(directory / FP32)
    truth = _truth(model, source, shown)
    with console.progress_bars() as progress:
        table, skipped = measure_sensitivity(
            model,
            plan,
            scales,
            shown,
            source.preprocess,
            pixels=PixelInput.of(source.preprocess),
            truth=truth,
            bounds=RaceBounds(precision[0] / 100.0, precision[1] / 100.0),
            threads=threads,
            report=progress,
        )
    if output is not None:
        _write(table, plan, output)
    if skipped:
        console.print_warnings([f"{len(skipped)} images cannot be read: {', '.join(skipped[:5])}"])
    if as_json:
        console.print_json(table)
    else:
        _print(table, output)


def _check_alone() -> None:
    """Refuse the options that are about layers in INT8."""
    context = click.get_current_context()
    for option in context.command.params:
        given = context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
        if given and option.name in _ABOUT_LAYERS:
            raise click.UsageError(f"{option.opts[0]} and --kind vit: that looks at distributions, not at layers")


def _search(
    directory: Path,
    plan: PrecisionPlan,
    scales: Scales,
    source: ModelSource,
    images: Path,
    bounds: SearchBounds,
    output: Path | None,
    threads: int | None,
    as_json: bool,
) -> None:
    task = choose_task(None, source.config)
    labelled = task.open(images, source.labels)
    graph, ranked_on = directory / FP32, halves(labelled.images)[0]
    with console.progress_bars() as progress:
        found = search_graph(
            graph, plan, scales, source, ranked_on, task, labelled, bounds, threads=threads, report=progress
        )
    if output is not None:
        with new_directory(output) as work:
            save_found(found, work)
            found.plan.save(work / PLAN)
    if as_json:
        console.print_json(found.search)
        return
    print_search(found.search)
    if output is not None:
        click.echo(f"next: edgeq quantize {directory} --plan {output / PLAN} --scales SCALES -o QUANTIZED")


def _artifacts(directory: Path, scales_file: Path | None) -> tuple[Scales, PrecisionPlan]:
    """The scales and the plan of a directory, made sure to belong to its graph."""
    if (directory / MANIFEST).exists():
        read_manifest(directory)
    report = ExportReport.load(directory)
    if scales_file is None and not (directory / SCALES).is_file():
        raise ArtifactError(
            f"{directory} has no {SCALES}",
            expected="a directory made by edgeq quantize or edgeq prepare, or --scales",
            next_step=f"edgeq calibrate {directory} --images IMAGES -o scales.json, then --scales scales.json",
        )
    scales = Scales.load(scales_file or directory / SCALES)
    check_scales(directory / FP32, scales)
    if (directory / PLAN).is_file():
        return scales, PrecisionPlan.load(directory / PLAN)
    plan = plan_classifier(load_outline(directory / FP32), keep_batchnorm=tuple(report.kept))
    return scales, resolve(plan, scales)


def _truth(model: onnx.ModelProto, source: ModelSource, images: ImageSet) -> dict[str, int] | None:
    """Folder -> class where that is what the task asks for; None where folders are no classes, which is said."""
    classes = model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    try:
        return choose_task(None, source.config).folder_classes(images, source.labels, classes)
    except ImageError as error:
        console.print_warnings([f"no top-1: {error.what}"])
        return None


def _write(table: Sensitivity, plan: PrecisionPlan, output: Path) -> None:
    with new_directory(output) as work:
        table.save(work / TABLE)
        for name in CHARTS:
            draw_sensitivity(table, work / name, plan=plan)


def _print(table: Sensitivity, output: Path | None) -> None:
    header = ("layer", "logit error", "same class", "gain if left out", "images")
    rows = [_cells(line) for line in table.ranking()[:WORST]]
    console.print_table("Worst layers, each alone in INT8", header, rows, numbers=header[1:])
    whole = table.int8
    click.echo(
        f"All INT8: logit error {whole.logit_error:.4f} ± {whole.logit_error_se:.4f}, "
        f"same class {whole.agreement:.2f} %, on {whole.images} images."
    )
    seen = [line.alone.images for line in table.layers]
    click.echo(f"{len(seen)} layers, each on {min(seen)} to {max(seen)} images.")
    if output is not None:
        click.echo(f"{output / TABLE}\n{output / CHARTS[0]}")


def _cells(line: LayerSensitivity) -> tuple[str, ...]:
    alone = line.alone
    return (
        line.layer,
        f"{alone.logit_error:.5f} ± {alone.logit_error_se:.5f}",
        f"{alone.agreement:.2f} %",
        f"{100.0 * line.gain:+.1f} ± {100.0 * line.gain_se:.1f} %",
        str(alone.images),
    )
