"""`edgeq install`, and the option that the verbs of the store share."""

from __future__ import annotations

from pathlib import Path

import click

from edgeq.api.device.bundles import install_bundle
from edgeq.cli import console
from edgeq.cli.device.verify import key_option, said_of_signature
from edgeq.cli.flags import PATH, json_option, threads_option
from edgeq.engine.registry import NAMES
from edgeq.install.run import Installed
from edgeq.install.store import ROOT

__all__ = ["command", "root_option", "short"]

_ID_DIGITS = 12

root_option = click.option(
    "--root", type=PATH, default=ROOT, show_default=True, help="The directory of installed bundles."
)


@click.command("install")
@click.argument("bundle", type=PATH)
@root_option
@key_option
@click.option(
    "--backend",
    type=click.Choice(NAMES),
    help="What is checked: TensorRT's engine, which is built if need be, or the graph in another backend.  "
    "[default: TensorRT where it is installed]",
)
@click.option("--answers", is_flag=True, help="Ask a vision-language model the canaries' questions as well.")
@threads_option
@click.option("--no-check", "unchecked", is_flag=True, help="Switch to it without looking at its canaries.")
@json_option
def command(
    bundle: Path,
    root: Path,
    keys: tuple[Path, ...],
    backend: str | None,
    answers: bool,
    threads: int | None,
    unchecked: bool,
    as_json: bool,
) -> None:
    """Install BUNDLE, an .edgeq.tar file or a directory, switch to it, and check it; switch back if that fails.

    Its lengths, digests and signature are verified first, and whether this device has what it needs. Files that other
    versions have are not stored again. If the engine does not compute what the workshop saw, the version before is in
    use again, and the exit status is 1. A power cut at any point leaves the old version or the new one, whole.
    """
    if unchecked and (answers or backend or threads):
        raise click.UsageError("--backend, --answers and --threads are for the check: leave out --no-check")
    with console.progress_bars() as progress:
        done = install_bundle(
            bundle,
            root=root,
            keys=keys,
            check=not unchecked,
            backend=backend,
            answers=answers,
            threads=threads,
            progress=progress,
            say=lambda sentence: click.echo(sentence, err=True),
        )
    if as_json:
        console.print_json(done)
    else:
        _print(done)


def _print(done: Installed) -> None:
    checked = "its canaries passed" if done.checked else "its canaries were not looked at"
    click.echo(f"Version {short(done.id)} is in use; {checked}.")
    click.echo(said_of_signature(done.signed_by))
    click.echo(
        f"{done.files} files, {done.bytes / 1e6:,.1f} MB; {done.new_files} of them new, {done.new_bytes / 1e6:,.1f} MB."
    )
    click.echo(f"edgeq rollback brings back {short(done.previous)}." if done.previous else "There is none before it.")


def short(identity: str) -> str:
    """As much of a version's id as people need."""
    return identity[:_ID_DIGITS]
