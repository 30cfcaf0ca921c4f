"""`edgeq quantize`."""

from __future__ import annotations

import shutil
from pathlib import Path

import click
import onnx

from edgeq.calibrate.scales import Scales
from edgeq.calibrate.stage import AUTO, SCALES
from edgeq.cli import console
from edgeq.cli.options import PATH, json_option, output_option, plan_options
from edgeq.export.stage import CONFIG, EXPORT, FP32, PREPROCESS, ExportReport
from edgeq.files import new_directory
from edgeq.model.source import open_model
from edgeq.plan.precision import WeightGranularity
from edgeq.plan.rules import plan_classifier
from edgeq.quantize.select import settle
from edgeq.quantize.stage import INT8, quantize

__all__ = ["command"]


@click.command("quantize")
@click.argument("exported", type=PATH)
@click.option("--scales", "scales_file", type=PATH, required=True, help="Made by `edgeq calibrate` for this graph.")
@output_option
@plan_options
@json_option
def command(
    exported: Path,
    scales_file: Path,
    output: Path,
    weights: WeightGranularity,
    add_scales: str,
    as_json: bool,
) -> None:
    """Put scales into an exported graph: INT8 for ONNX Runtime and for TensorRT, and the plan beside them.

    EXPORTED is a directory made by `edgeq export`.
    """
    report = ExportReport.load(exported)
    scales = Scales.load(scales_file)
    plan = plan_classifier(
        onnx.load(exported / FP32),
        weights=weights,
        shared_add=add_scales != "separate",
        keep_batchnorm=tuple(report.kept),
    )
    if add_scales == AUTO:
        plan = settle(plan, scales)
    with new_directory(output) as work:
        quantize(exported / FP32, plan, scales, open_model(exported / FP32).preprocess, work)
        scales.save(work / SCALES)
        for name in (FP32, PREPROCESS, CONFIG, EXPORT):
            shutil.copyfile(exported / name, work / name)
    if as_json:
        console.print_json(plan)
        return
    click.echo(f"{output / INT8['onnxruntime']}\n{output / INT8['tensorrt']}")
    click.echo(f"next: edgeq evaluate {output} --eval LABELLED")
