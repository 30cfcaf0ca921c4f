"""`edgeq quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeq.cli import console
from edgeq.cli.flags import PATH, json_option, output_option
from edgeq.cli.workshop.options import backend_option, guard_options, plan_choices, plan_file_option, plan_options

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
def command(exported: Path, scales_file: Path, output: Path, as_json: bool, **choices: Any) -> None:
    """Put scales into an exported graph: INT8 for ONNX Runtime and for TensorRT, and the plan beside them.

    EXPORTED is a directory made by `edgeq export`.
    """

    from edgeq.api.workshop.stages import quantize_model
    from edgeq.quantize.int8.registry import lowerings

    made = quantize_model(exported, scales_file, output, options=plan_choices(**choices))
    console.print_warnings([finding.warning for finding in made.guards])
    if as_json:
        console.print_json(made.plan)
        return
    for lowering in lowerings(choices["backend"]):
        click.echo(output / lowering.file)
    console.print_next("edgeq", "evaluate", output, "--eval", "LABELLED")
