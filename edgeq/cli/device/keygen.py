"""`edgeq keygen`."""

from __future__ import annotations

from pathlib import Path

import click

from edgeq.bundle.keys import make_keys
from edgeq.cli import console
from edgeq.cli.flags import PATH, json_option

__all__ = ["command"]


@click.command("keygen")
@click.argument("name", type=PATH)
@json_option
def command(name: Path, as_json: bool) -> None:
    """Make a key pair: NAME.private.pem to sign bundles with, NAME.public.pem to check them.

    The private key has no password and is readable by its owner alone. Devices need the public one only.
    """
    pair = make_keys(name)
    if as_json:
        console.print_json(pair)
        return
    click.echo(f"{pair.private} signs: keep it where bundles are made, and nowhere else.")
    click.echo(f"{pair.public} checks: put it on every device. The id of both is {pair.id}.")
