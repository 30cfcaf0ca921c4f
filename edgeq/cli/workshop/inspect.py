"""`edgeq inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgeq.cli import console
from edgeq.cli.completion import files
from edgeq.cli.flags import json_option
from edgeq.cli.workshop.options import outputs_option
from edgeq.cli.workshop.preprocess_options import preprocess_options
from edgeq.model.images.preprocess_flags import PreprocessFlags

if TYPE_CHECKING:
    from edgeq.pipeline.inspect import Inspection

__all__ = ["command"]


@click.command("inspect")
@click.argument("model", shell_complete=files)
@outputs_option
@preprocess_options
@json_option
def command(model: str, outputs: tuple[str, ...], preprocess: PreprocessFlags | None, as_json: bool) -> None:
    """Show what MODEL is made of, and what would be done to each part."""

    from edgeq.api.workshop.describe import inspect

    inspection = inspect(model, preprocess=preprocess, outputs=outputs)
    if as_json:
        console.print_json(inspection)
    else:
        _print(inspection)


def _print(inspection: Inspection) -> None:
    console.print_table(
        f"{inspection.model} ({inspection.source}), {inspection.parameters:,} parameters",
        ("component", "layers", "parameters", "MB in FP32"),
        [(c.name, str(c.layers), f"{c.parameters:,}", f"{c.bytes / 1e6:.2f}") for c in inspection.components],
        numbers=("layers", "parameters", "MB in FP32"),
    )
    numbers = {reason: str(number) for number, reason in enumerate(_reasons(inspection), start=1)}
    console.print_table(
        "What would be done",
        ("component", "kind", "layers", "parameters", "what", "why"),
        [
            (
                *(group.component, group.kind, str(group.layers), f"{group.parameters:,}"),
                group.decision,
                numbers[group.reason],
            )
            for group in inspection.groups
        ],
        numbers=("layers", "parameters", "why"),
    )
    console.print_reasons((number, reason) for reason, number in numbers.items())
    for line in inspection.outputs:
        click.echo(line)
    click.echo(f"BatchNorm: {inspection.batchnorm}, of which {inspection.batchnorm_foldable} fold.")
    for name, reason in inspection.batchnorm_kept.items():
        click.echo(f"  {name} stays: {reason}")
    for note in inspection.notes:
        click.echo(f"{note}.")


def _reasons(inspection: Inspection) -> list[str]:
    """Each once, in their order."""
    return [*dict.fromkeys(group.reason for group in inspection.groups)]
