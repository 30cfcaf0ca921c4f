"""`edgeq prune`."""

from __future__ import annotations

from pathlib import Path

import click

from edgeq.cli import console
from edgeq.cli.device.install import root_option, short
from edgeq.cli.flags import json_option
from edgeq.install.run import prune

__all__ = ["command"]


@click.command("prune")
@click.option("--keep", type=click.IntRange(0), required=True, help="Keep so many of the newest that did not fail.")
@root_option
@json_option
def command(keep: int, root: Path, as_json: bool) -> None:
    """Remove installed versions; the current and the previous one always stay.

    Versions whose check failed are removed. Files go when no version is left that has them.
    """
    done = prune(root, keep)
    if as_json:
        console.print_json(done)
        return
    removed = ", ".join(short(identity) for identity in done.removed)
    click.echo(f"Removed {removed}; {done.freed_bytes / 1e6:,.1f} MB are free again." if removed else "Nothing to do.")
