"""`edgeq sensitivity`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from edgeq.cli import console
from edgeq.cli.flags import PATH, json_option, threads_option
from edgeq.cli.progress import progress_bars
from edgeq.cli.workshop.options import search_bounds, search_options, track_option
from edgeq.model.images.image_set import ImageSet
from edgeq.quantize.search.bounds import WORST, RaceBounds, SearchBounds

if TYPE_CHECKING:
    from edgeq.quantize.search.sensitivity import LayerSensitivity, Sensitivity

__all__ = ["command"]

_BOUNDS = RaceBounds()
_PERCENT = click.FloatRange(0.0, min_open=True)
_ABOUT_LAYERS = ("scales_file", "precision", "searched", "max_drop", "max_float_share", "min_speedup", "track")


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
@track_option
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
    track: tuple[str, ...],
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

    from edgeq.api.workshop.layers import sensitivity
    from edgeq.cli.workshop.distributions import show_distributions

    if kind == "vit":
        _check_alone()
        show_distributions(directory, ImageSet.open(images), output, threads=threads, as_json=as_json)
        return
    bounds = search_bounds(max_drop, max_float_share, min_speedup)
    if searched != (bounds is not None):
        raise click.UsageError("--search and --max-drop belong together: give both")
    if bounds is not None:
        _search(directory, images, bounds, output, scales_file, threads, as_json, track)
        return
    warnings: list[str] = []
    with progress_bars() as progress:
        table = sensitivity(
            directory,
            images,
            output,
            scales=scales_file,
            worst=precision[0] / 100.0,
            others=precision[1] / 100.0,
            threads=threads,
            progress=progress,
            say=warnings.append,
            track=track,
        )
    console.print_warnings(warnings)
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
    labelled: Path,
    bounds: SearchBounds,
    output: Path | None,
    scales: Path | None,
    threads: int | None,
    as_json: bool,
    track: tuple[str, ...],
) -> None:
    from edgeq.api.workshop.layers import search_layers
    from edgeq.cli.workshop.classifier_tables import print_search
    from edgeq.quantize.int8.stage import PLAN

    warnings: list[str] = []
    with progress_bars() as progress:
        found = search_layers(
            directory,
            labelled,
            output,
            max_drop=bounds.max_drop,
            max_share=bounds.max_share,
            min_speedup=bounds.min_speedup,
            scales=scales,
            threads=threads,
            progress=progress,
            say=warnings.append,
            track=track,
        )
    console.print_warnings(warnings)
    if as_json:
        console.print_json(found.search)
        return
    print_search(found.search)
    if output is not None:
        plan = output / PLAN
        console.print_next("edgeq", "quantize", directory, "--plan", plan, "--scales", "SCALES", "-o", "QUANTIZED")


def _print(table: Sensitivity, output: Path | None) -> None:
    from edgeq.api.workshop.layers import CHARTS
    from edgeq.quantize.search.sensitivity import TABLE

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
