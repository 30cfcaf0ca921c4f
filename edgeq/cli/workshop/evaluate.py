"""`edgeq evaluate`."""

from __future__ import annotations

from pathlib import Path

import click

from edgeq.api.workshop.stages import evaluate
from edgeq.cli import console
from edgeq.cli.flags import PATH, json_option, threads_option
from edgeq.cli.workshop.classifier_tables import print_quality
from edgeq.cli.workshop.options import eval_option, task_option
from edgeq.quantize.int8.stage import FP16, made_graph

__all__ = ["command"]


@click.command("evaluate")
@click.argument("quantized", type=PATH)
@eval_option(required=True)
@task_option
@threads_option
@json_option
def command(quantized: Path, labelled: Path, task: str | None, threads: int | None, as_json: bool) -> None:
    """Judge a quantized network against its FP32 source on labelled images.

    QUANTIZED is a directory made by `edgeq quantize`, or a bundle. Of a bundle that was kept in floating point, the
    FP16 graph is judged.
    """
    with console.progress_bars() as progress:
        quality = evaluate(quantized, labelled, task=task, threads=threads, progress=progress)
    if as_json:
        console.print_json(quality)
        return
    made = "FP16" if made_graph(quantized).name == FP16 else "INT8"
    print_quality(f"FP32 against {made}, {quality.backend}", quality, made=made)
