"""`edgeq handover`."""

from __future__ import annotations

from pathlib import Path

import click

from edgeq.cli import console
from edgeq.cli.completion import files
from edgeq.cli.flags import PATH, json_option, output_option
from edgeq.cli.progress import progress_bars
from edgeq.handover.forms import FORMS
from edgeq.handover.write import TARGETS, write_handover
from edgeq.tensorrt.settings import Batch

__all__ = ["command"]


@click.command("handover")
@click.argument("bundle", type=PATH, shell_complete=files)
@click.option("--for", "target", type=click.Choice([*TARGETS]), required=True, help="What will run it.")
@click.option(
    "--batch",
    type=click.IntRange(1),
    nargs=3,
    metavar="MIN OPT MAX",
    help="Pictures or texts at once: least, usual, most.  [default: the bundle's own]",
)
@click.option(
    "--model",
    type=PATH,
    shell_complete=files,
    help="For edge-llm, llama.cpp, transformers, vllm: the directory of the model that BUNDLE was made of.",
)
@click.option(
    "--form",
    type=click.Choice([*FORMS]),
    help="For edge-llm, vllm: how INT4 weights are stored.  [default: the one that the runtime is made for]",
)
@output_option
@json_option
def command(
    bundle: Path,
    target: str,
    batch: Batch | None,
    model: Path | None,
    form: str | None,
    output: Path,
    as_json: bool,
) -> None:
    """Write what another runtime needs of BUNDLE: configuration, labels, graphs, and lines that build engines.

    Of a vision-language model whose language half is INT4 or INT8: a whole Hugging Face checkpoint, or GGUF files for
    llama.cpp. What that runtime does otherwise than the bundle says is told.
    """
    with progress_bars() as progress:
        made = write_handover(bundle, target, output, batch=batch, model=model, form=form, progress=progress)
    if as_json:
        console.print_json(made)
    else:
        for name in made.files:
            click.echo(str(output / name))
    console.print_warnings(made.notes)
