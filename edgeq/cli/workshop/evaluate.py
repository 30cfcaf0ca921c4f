"""`edgeq evaluate`."""

from __future__ import annotations

from pathlib import Path

import click

from edgeq.bundle.manifest import MANIFEST, read_manifest
from edgeq.cli import console
from edgeq.cli.flags import PATH, json_option, threads_option
from edgeq.cli.workshop.classifier_tables import print_quality
from edgeq.cli.workshop.options import eval_option, task_option
from edgeq.export.stage import FP32, ExportReport
from edgeq.model.checkpoint.source import open_model
from edgeq.pipeline.stages import counter, judge_graphs
from edgeq.quality.tasks.registry import choose_task
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
    made = "FP16" if _check(quantized).name == FP16 else "INT8"
    source = open_model(quantized / FP32)
    chosen = choose_task(task, source.config)
    examples = chosen.open(labelled, source.labels)
    with console.progress_bars() as progress:
        advance = counter(progress, "judge", len(examples))
        quality = judge_graphs(quantized, chosen, examples, examples.images, source, threads=threads, advance=advance)
    if as_json:
        console.print_json(quality)
    else:
        print_quality(f"FP32 against {made}, {quality.backend}", quality, made=made)


def _check(quantized: Path) -> Path:
    """The graph that is judged; raises ArtifactError unless both are there, and are what the directory says."""
    if (quantized / MANIFEST).exists():
        read_manifest(quantized)
    ExportReport.load(quantized)
    return made_graph(quantized)
