"""`edgeq install`, and the option that the verbs of the store share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from edgeq.api.device.bundles import install_bundle
from edgeq.cli import console
from edgeq.cli.device.verify import key_option, said_of_signature
from edgeq.cli.flags import PATH, json_option, threads_option
from edgeq.cli.progress import progress_bars
from edgeq.engine.registry import RUNNING
from edgeq.install.run import Installed
from edgeq.install.store import ROOT

__all__ = ["allow_options", "allowed_because", "command", "root_option", "short"]

F = TypeVar("F", bound=Callable[..., Any])

_ID_DIGITS = 12
_MOST_REASON = 500
_UNSIGNED: Final = (
    "nobody's signature was checked: whoever made this bundle, or changed it on the way, decides what runs here. Sign "
    "it with `edgeq sign`, and install it with --key NAME.public.pem: from then on this device takes signed ones alone"
)

root_option = click.option(
    "--root", type=PATH, default=ROOT, show_default=True, help="The directory of installed bundles."
)


_ALLOW = (
    click.option(
        "--allow-older",
        is_flag=True,
        help="Take it though it is older than one before, expired, or not signed though others were; needs --because.",
    ),
    click.option("--because", metavar="TEXT", help="Why; it is written into the history."),
)


def allow_options(command: F) -> F:
    """--allow-older, and the reason that it needs."""
    for option in reversed(_ALLOW):
        command = option(command)
    return command


def allowed_because(allow_older: bool, because: str | None) -> str:
    """The reason; empty where nothing is allowed.

    Raises:
        UsageError: one is given without the other.
    """
    reason = (because or "").strip()
    if allow_older != bool(reason) or len(reason) > _MOST_REASON or not reason.isprintable():
        raise click.UsageError(
            f"--allow-older and --because TEXT go together; TEXT is a line of at most {_MOST_REASON} characters"
        )
    return reason


@click.command("install")
@click.argument("bundle", type=PATH)
@root_option
@key_option
@click.option(
    "--backend",
    type=click.Choice(RUNNING),
    help="What is checked: TensorRT's engine, which is built if need be, or the graph in another backend.  "
    "[default: TensorRT where it is installed]",
)
@click.option("--answers", is_flag=True, help="Ask a vision-language model the canaries' questions as well.")
@threads_option
@allow_options
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
    allow_older: bool,
    because: str | None,
    as_json: bool,
) -> None:
    """Install BUNDLE, an .edgeq.tar file or a directory, switch to it, and check it; switch back if that fails.

    Its lengths, digests and signature are verified first, whether this device has what it needs, and whether a newer
    release of its product was installed before. Keys that are given are remembered: from then on a bundle must be
    signed by one of them, or by one of the list of `edgeq trust set`. Files that other versions have are not stored
    again. If the engine does not compute what the workshop saw, the version before is in use again, and the exit status
    is 1. A power cut at any point leaves the old version or the new one, whole.
    """
    if unchecked and (answers or backend or threads):
        raise click.UsageError("--backend, --answers and --threads are for the check: leave out --no-check")
    reason = allowed_because(allow_older, because)
    with progress_bars() as progress:
        done = install_bundle(
            bundle,
            root=root,
            keys=keys,
            check=not unchecked,
            backend=backend,
            answers=answers,
            threads=threads,
            because=reason,
            progress=progress,
            say=lambda sentence: click.echo(sentence, err=True),
        )
    for sentence in done.notes:
        click.echo(sentence, err=True)
    if done.signed_by is None:
        console.print_warnings([_UNSIGNED])
    if as_json:
        console.print_json(done)
    else:
        _print(done)


def _print(done: Installed) -> None:
    checked = "its canaries passed" if done.checked else "its canaries were not looked at"
    release = f", release {done.sequence} of {done.product}," if done.product else ""
    click.echo(f"Version {short(done.id)}{release} is in use; {checked}.")
    click.echo(said_of_signature(done.signed_by))
    click.echo(
        f"{done.files} files, {done.bytes / 1e6:,.1f} MB; {done.new_files} of them new, {done.new_bytes / 1e6:,.1f} MB."
    )
    click.echo(f"edgeq rollback brings back {short(done.previous)}." if done.previous else "There is none before it.")


def short(identity: str) -> str:
    """As much of a version's id as people need."""
    return identity[:_ID_DIGITS]
