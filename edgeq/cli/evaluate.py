"""`edgeq evaluate`."""

from __future__ import annotations

from pathlib import Path

import click

from edgeq.bundle.manifest import MANIFEST, read_manifest
from edgeq.cli import console
from edgeq.cli.classifier_tables import print_quality
from edgeq.cli.flags import PATH, json_option, threads_option
from edgeq.cli.options import eval_option
from edgeq.errors import ArtifactError
from edgeq.export.stage import FP32, ExportReport
from edgeq.model.images import ImageSet
from edgeq.model.source import open_model
from edgeq.quantize.stage import INT8
from edgeq.stages import counter, judge_graphs

__all__ = ["command"]


@click.command("evaluate")
@click.argument("quantized", type=PATH)
@eval_option(required=True)
@threads_option
@json_option
def command(quantized: Path, labelled: Path, threads: int | None, as_json: bool) -> None:
    """Judge a quantized network against its FP32 source on labelled images.

    QUANTIZED is a directory made by `edgeq quantize`, or a bundle.
    """
    _check(quantized)
    source = open_model(quantized / FP32)
    images = ImageSet.open(labelled, labelled=True)
    with console.progress_bars() as progress:
        advance = counter(progress, "judge", len(images))
        quality = judge_graphs(quantized, images, images, source, threads=threads, advance=advance)
    if as_json:
        console.print_json(quality)
    else:
        print_quality(f"FP32 against INT8, {quality.backend}", quality)


def _check(quantized: Path) -> None:
    """Raise ArtifactError unless both graphs are there, and are what the directory says."""
    if (quantized / MANIFEST).exists():
        read_manifest(quantized)
    ExportReport.load(quantized)
    if not (quantized / INT8["onnxruntime"]).is_file():
        raise ArtifactError(
            f"{quantized} has no {INT8['onnxruntime']}",
            expected="a directory made by edgeq quantize or edgeq prepare",
            next_step=f"edgeq quantize {quantized} --scales SCALES -o QUANTIZED",
        )
