"""What `edgeq sensitivity --kind vit` does."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click

from edgeq.cli import console
from edgeq.cli.progress import progress_bars
from edgeq.export.stage import FP32, ExportReport, export_model
from edgeq.files import new_directory
from edgeq.model.checkpoint.source import ModelSource, open_model
from edgeq.model.images.image_set import ImageSet
from edgeq.pipeline.stages import counter, parity_images
from edgeq.quantize.distributions.advice import FORMS
from edgeq.quantize.distributions.chart import draw_distributions
from edgeq.quantize.distributions.measure import (
    DISTRIBUTIONS,
    Distributions,
    TensorDistribution,
    measure_distributions,
)

__all__ = ["show_distributions"]

CHART: Final = "distributions.svg"

_IMAGES: Final = 128


def show_distributions(
    model: Path, images: ImageSet, output: Path | None, *, threads: int | None, as_json: bool
) -> None:
    """Measure the distributions of a vision transformer's tensors, write and print them.

    Args:
        model: an exported directory, or a MODEL, which is exported for the moment.
        images: of which 128 are used.
        output: a directory to make for the artifact and its chart.
        threads: of one operator.
        as_json: print the artifact instead of a table.
    """
    some = images.sample(_IMAGES)
    with _exported(model, some, threads) as (graph, source), progress_bars() as progress:
        distributions, skipped = measure_distributions(
            graph, some, source.preprocess, threads=threads, advance=counter(progress, "observing tensors", len(some))
        )
    if output is not None:
        with new_directory(output) as work:
            distributions.save(work / DISTRIBUTIONS)
            draw_distributions(distributions, work / CHART)
    if skipped:
        console.print_warnings([f"{len(skipped)} images cannot be read: {', '.join(skipped[:5])}"])
    if as_json:
        console.print_json(distributions)
        return
    _print(distributions)
    if output is not None:
        click.echo(f"{output / DISTRIBUTIONS}\n{output / CHART}")


@contextmanager
def _exported(model: Path, images: ImageSet, threads: int | None) -> Iterator[tuple[Path, ModelSource]]:
    """The FP32 graph of an exported directory, or of a MODEL for as long as it is needed."""
    if (model / FP32).is_file():
        ExportReport.load(model)
        yield model / FP32, open_model(model / FP32)
        return
    source = open_model(model)
    with tempfile.TemporaryDirectory() as directory:
        export_model(source, Path(directory), parity_images(images, source), threads=threads)
        yield Path(directory) / FP32, source


def _print(distributions: Distributions) -> None:
    """A line for each kind of tensor, and one for each tensor that one grid does not suit."""
    header = ("tensors", "", "worst in", "one grid costs", "INT8", "folded", "twin", "float")
    kinds = dict.fromkeys(tensor.role for tensor in distributions.tensors)
    rows = [_cells([tensor for tensor in distributions.tensors if tensor.role == kind]) for kind in kinds]
    title = f"{distributions.blocks} blocks on {distributions.images} images: what is recommended"
    console.print_table(title, header, rows, numbers=("", *header[3:]))
    for tensor in distributions.tensors:
        if tensor.advice.form != FORMS[0]:
            click.echo(f"{_place(tensor)}, {tensor.role}: {tensor.advice.form}: {tensor.advice.reason}")


def _cells(tensors: list[TensorDistribution]) -> tuple[str, ...]:
    worst = max(tensors, key=lambda tensor: tensor.costs.uniform)
    counts = [sum(tensor.advice.form == form for tensor in tensors) for form in FORMS]
    cost = f"{worst.costs.uniform:.2%}"
    return (worst.role, str(len(tensors)), _place(worst), cost, *(str(count) if count else "" for count in counts))


def _place(tensor: TensorDistribution) -> str:
    return "no block" if tensor.block is None else f"block {tensor.block}"
