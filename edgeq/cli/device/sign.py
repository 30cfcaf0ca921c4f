"""`edgeq sign`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgeq.bundle.keys import load_private, public_of
from edgeq.bundle.signature import sign_bundle
from edgeq.cli.device.verify import byte_bar, said_of_signature
from edgeq.cli.flags import PATH, json_option

__all__ = ["command"]


@click.command("sign")
@click.argument("bundle", type=PATH)
@click.option("--key", type=PATH, required=True, help="The private key, NAME.private.pem of edgeq keygen.")
@json_option
def command(bundle: Path, key: Path, as_json: bool) -> None:
    """Check every file of BUNDLE, a directory, and sign its manifest; a signature that is there is replaced."""
    signed_by = public_of(load_private(key)).id
    with byte_bar("checking") as report:
        signature = sign_bundle(bundle, key, report=report)
    if as_json:
        click.echo(json.dumps({"signature": str(signature), "signed_by": signed_by}, indent=1))
    else:
        click.echo(f"{bundle} is whole. {said_of_signature(signed_by)}")
