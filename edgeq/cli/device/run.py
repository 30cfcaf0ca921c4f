"""`edgeq run`."""

from __future__ import annotations

from pathlib import Path

import click

from edgeq.api.device.images import open_image
from edgeq.api.device.opened import open_bundle
from edgeq.cli import console
from edgeq.cli.flags import PATH, json_option, running_backend_option, threads_option
from edgeq.runtime.vlm.model import MAX_NEW_TOKENS

__all__ = ["command"]


@click.command("run")
@click.argument("bundle", type=PATH)
@click.argument("images", metavar="IMAGE...", type=PATH, nargs=-1, required=True)
@click.argument("question")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(1),
    default=MAX_NEW_TOKENS,
    show_default=True,
    help="The longest answer, in tokens.",
)
@running_backend_option
@threads_option
@json_option
def command(
    bundle: Path,
    images: tuple[Path, ...],
    question: str,
    max_new_tokens: int,
    backend: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Ask QUESTION about one IMAGE or several, and print what the vision-language model in BUNDLE answers.

    The images stand before the question, in their order. Every file of the bundle is checked first. The images'
    features come from the vision engine, the language model is loaded alone. What ran the vision graph, and why, is
    told on stderr, and with --json beside the answer.
    """
    pictures = [open_image(image) for image in images]
    with open_bundle(bundle, kind="vision-language", backend=backend, threads=threads) as opened:
        reply = opened.ask(pictures, question, max_new_tokens)
    if as_json:
        console.print_json(reply)
    else:
        console.say(f"{reply.backend}: {reply.because}")
        click.echo(reply.text)
