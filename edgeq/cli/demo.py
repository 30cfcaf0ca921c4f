"""`edgeq demo`."""

from __future__ import annotations

from pathlib import Path

import click

from edgeq.cli import console
from edgeq.cli.options import PATH, json_option, threads_option
from edgeq.cli.prepare import print_prepared
from edgeq.demo.run import EVALUATION, MODEL, run_demo
from edgeq.prepare import Options

__all__ = ["command"]


@click.command("demo")
@click.option("-o", "--output", type=PATH, default=Path("edgeq-demo"), show_default=True, help="A directory to make.")
@threads_option
@json_option
def command(output: Path, threads: int | None, as_json: bool) -> None:
    """Go the whole way on a small network that comes with edgeq; nothing is downloaded.

    It tells corrosion, cracks and spalling from shadows and sound surfaces, on scenes that are drawn for it.
    """
    with console.progress_bars() as progress:
        prepared = run_demo(output, options=Options(threads=threads), progress=progress)
    console.print_warnings(prepared.warnings)
    if as_json:
        console.print_json(prepared)
        return
    print_prepared(prepared)
    click.echo(f"next: edgeq inspect {output / MODEL}")
    click.echo(f"      edgeq evaluate {prepared.bundle} --eval {output / EVALUATION} --json")
    click.echo("      edgeq prepare YOUR_MODEL --images YOUR_IMAGES --eval YOUR_LABELLED_IMAGES -o BUNDLE")
