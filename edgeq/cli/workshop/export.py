"""`edgeq export`."""

from __future__ import annotations

from pathlib import Path

import click

from edgeq.cli import console
from edgeq.cli.completion import files
from edgeq.cli.flags import json_option, output_option, threads_option
from edgeq.cli.workshop.options import fold_options, images_option, outputs_option
from edgeq.cli.workshop.preprocess_options import preprocess_options
from edgeq.model.images.preprocess_flags import PreprocessFlags

__all__ = ["command"]


@click.command("export")
@click.argument("model", shell_complete=files)
@images_option
@output_option
@fold_options
@outputs_option
@preprocess_options
@threads_option
@json_option
def command(
    model: str,
    images: Path,
    output: Path,
    fold: bool,
    keep_batchnorm: tuple[str, ...],
    strict: bool,
    channel_equalization: str,
    outputs: tuple[str, ...],
    preprocess: PreprocessFlags | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Export MODEL to ONNX with BatchNorm folded, and prove on images that it computes the same.

    The channels before a transformer's linear layers are brought to like ranges as well, which changes as little. The
    first stages of `edgeq prepare`. The directory made is a MODEL itself.
    """

    from edgeq.api.workshop.stages import export_model
    from edgeq.cli.workshop.classifier_tables import print_export, print_fold

    exported = export_model(
        model,
        images,
        output,
        fold=fold,
        keep_batchnorm=keep_batchnorm,
        strict=strict,
        channel_equalization=channel_equalization,
        outputs=outputs,
        preprocess=preprocess,
        threads=threads,
    )
    if as_json:
        console.print_json(exported.report)
        return
    print_export(exported.report)
    if exported.channels is not None:
        print_fold(exported.channels)
    console.print_next("edgeq", "calibrate", output, "--images", images, "-o", "scales.json")
