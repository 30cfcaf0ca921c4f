"""`edgeq quantize`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click

from edgeq.calibrate.scales import Scales
from edgeq.calibrate.stage import SCALES
from edgeq.cli import console
from edgeq.cli.flags import PATH, json_option, output_option
from edgeq.cli.workshop.options import backend_option, guard_options, plan_choices, plan_file_option, plan_options
from edgeq.engine.registry import backend as named
from edgeq.engine.registry import require
from edgeq.export.stage import CONFIG, EXPORT, FP32, PREPROCESS, ExportReport
from edgeq.files import new_directory
from edgeq.model.checkpoint.source import open_model
from edgeq.model.images.preprocess import Preprocess
from edgeq.pipeline.stages import plan_graph
from edgeq.plan.facts import Facts
from edgeq.plan.guards import check
from edgeq.plan.precision import PrecisionPlan
from edgeq.quantize.int8.registry import lowerings
from edgeq.quantize.int8.select import resolve
from edgeq.quantize.int8.stage import quantize

__all__ = ["command"]


@click.command("quantize")
@click.argument("exported", type=PATH)
@click.option("--scales", "scales_file", type=PATH, required=True, help="Made by `edgeq calibrate` for this graph.")
@output_option
@backend_option
@plan_options
@plan_file_option
@guard_options
@json_option
def command(exported: Path, scales_file: Path, output: Path, backend: str, as_json: bool, **choices: Any) -> None:
    """Put scales into an exported graph: INT8 for ONNX Runtime and for TensorRT, and the plan beside them.

    EXPORTED is a directory made by `edgeq export`.
    """
    require(named(backend))
    report = ExportReport.load(exported)
    scales = Scales.load(scales_file)
    preprocess = open_model(exported / FP32).preprocess
    options = plan_choices(keep_batchnorm=tuple(report.kept), **choices).settled()
    plan = plan_graph(exported / FP32, report, options)
    findings = check(_facts(plan, scales, preprocess), options.allow)
    if options.shared_add is None:
        plan = resolve(plan, scales)
    with new_directory(output) as work:
        quantize(exported / FP32, plan, scales, preprocess, work, backend=backend)
        scales.save(work / SCALES)
        for name in (FP32, PREPROCESS, CONFIG, EXPORT):
            shutil.copyfile(exported / name, work / name)
    console.print_warnings([finding.warning for finding in findings])
    if as_json:
        console.print_json(plan)
        return
    for lowering in lowerings(backend):
        click.echo(output / lowering.file)
    click.echo(f"next: edgeq evaluate {output} --eval LABELLED")


def _facts(plan: PrecisionPlan, scales: Scales, preprocess: Preprocess) -> Facts:
    images = scales.images + scales.held_back
    return Facts(
        plan=plan,
        calibration_images=images or None,  # scales from a TensorRT cache do not tell
        calibration_preprocess=scales.preprocess_sha256,
        evaluation_preprocess=preprocess.digest,
    )
