"""`edgeq rollback`."""

from __future__ import annotations

from pathlib import Path

import click

from edgeq.cli import console
from edgeq.cli.device.install import allow_options, allowed_because, root_option, short
from edgeq.cli.flags import json_option
from edgeq.install.run import rollback

__all__ = ["command"]


@click.command("rollback")
@root_option
@allow_options
@json_option
def command(root: Path, allow_older: bool, because: str | None, as_json: bool) -> None:
    """Switch back to the version before, after reading every file of it; a second time undoes the first.

    It must be signed by a key that is trusted today, where any is. A service that runs must be restarted to see it.
    """
    done = rollback(root, because=allowed_because(allow_older, because))
    if as_json:
        console.print_json(done)
        return
    click.echo(f"Version {short(done.current)} is in use.")
    if done.previous:
        click.echo(f"Another edgeq rollback brings back {short(done.previous)}.")
