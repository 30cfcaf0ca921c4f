"""`edgeq export`."""

from __future__ import annotations

from pathlib import Path

import click

from edgeq.calibrate.stage import CALIBRATION_IMAGES
from edgeq.cli import console
from edgeq.cli.flags import json_option, output_option, threads_option
from edgeq.cli.workshop.classifier_tables import print_export, print_fold
from edgeq.cli.workshop.options import fold_options, images_option, preprocess_flags, preprocess_options
from edgeq.export.stage import FP32, export_model
from edgeq.files import new_directory
from edgeq.model.checkpoint.source import open_model
from edgeq.model.images.image_set import ImageSet
from edgeq.pipeline.stages import PARITY_IMAGES, Options, parity_images, plan_graph
from edgeq.quantize.equalize.stage import equalize_channels

__all__ = ["command"]


@click.command("export")
@click.argument("model")
@images_option
@output_option
@fold_options
@preprocess_options
@threads_option
@json_option
def command(
    model: str,
    images: Path,
    output: Path,
    fold: bool,
    keep_batchnorm: tuple[str, ...],
    channel_equalization: str,
    mean: str | None,
    std: str | None,
    size: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Export MODEL to ONNX with BatchNorm folded, and prove on images that it computes the same.

    The channels before a transformer's linear layers are brought to like ranges as well, which changes as little. The
    first stages of `edgeq prepare`. The directory made is a MODEL itself.
    """
    source = open_model(model, preprocess=preprocess_flags(mean, std, size))
    found = ImageSet.open(images)
    proof = parity_images(found.sample(PARITY_IMAGES), source)
    with new_directory(output) as work:
        report = export_model(source, work, proof, fold=fold, keep_batchnorm=keep_batchnorm, threads=threads)
        plan = plan_graph(work / FP32, report, Options())
        some = found.sample(CALIBRATION_IMAGES)
        report, _, channels = equalize_channels(
            work, report, plan, some, source.preprocess, proof, channel_equalization, threads=threads
        )
    if as_json:
        console.print_json(report)
        return
    print_export(report)
    if channels is not None:
        print_fold(channels)
    click.echo(f"next: edgeq calibrate {output} --images {images} -o scales.json")
