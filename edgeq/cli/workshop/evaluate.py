"""`edgeq evaluate`."""

from __future__ import annotations

from pathlib import Path

import click

from edgeq.bundle.retrieval_settings import RETRIEVAL_SETTINGS
from edgeq.cli import console
from edgeq.cli.flags import PATH, json_option, threads_option
from edgeq.cli.progress import progress_bars
from edgeq.cli.workshop.options import eval_option, task_option

__all__ = ["command"]


@click.command("evaluate")
@click.argument("quantized", type=PATH)
@eval_option(required=True)
@task_option
@click.option(
    "--classes",
    type=PATH,
    help="CLIP, SigLIP: a class in each line, its NAME or FOLDER, a tab, NAME; without it the names of the folders.",
)
@click.option(
    "--templates",
    type=PATH,
    help="CLIP, SigLIP: a template in each line, {} where the name goes; without it: a photo of a {}.",
)
@threads_option
@json_option
def command(
    quantized: Path,
    labelled: Path,
    task: str | None,
    detector_head: str | None,
    classes: Path | None,
    templates: Path | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Judge a quantized network against its FP32 source on labelled images.

    QUANTIZED is a directory made by `edgeq quantize`, or a bundle. Of a bundle that was kept in floating point, the
    FP16 graph is judged. A bundle of CLIP or SigLIP classifies the images by texts of their classes (zero-shot), with
    the text encoder that it has, beside the one in floating point where `edgeq prepare --keep-fp32` left that.
    """

    from edgeq.api.workshop.stages import evaluate
    from edgeq.cli.workshop.classifier_tables import print_quality
    from edgeq.cli.workshop.retrieval_tables import print_zero_shot
    from edgeq.pipeline.retrieval.zero_shot import judge_zero_shot
    from edgeq.quantize.int8.stage import FP16, made_graph

    if (quantized / RETRIEVAL_SETTINGS).is_file():
        for flag, value in (("--task", task), ("--detector-head", detector_head)):
            if value is not None:
                raise click.UsageError(f"{flag}: {quantized} is a bundle of a text and a vision encoder")
        with progress_bars() as progress:
            found = judge_zero_shot(
                quantized, labelled, classes=classes, templates=templates, threads=threads, progress=progress
            )
        if as_json:
            console.print_json(found)
        else:
            print_zero_shot(found)
        return
    for flag, given in (("--classes", classes), ("--templates", templates)):
        if given is not None:
            raise click.UsageError(f"{flag}: {quantized} is no bundle of a text and a vision encoder")
    with progress_bars() as progress:
        quality = evaluate(
            quantized, labelled, task=task, detector_head=detector_head, threads=threads, progress=progress
        )
    if as_json:
        console.print_json(quality)
        return
    made = "FP16" if made_graph(quantized).name == FP16 else "INT8"
    print_quality(f"FP32 against {made}, {quality.backend}", quality, made=made)
