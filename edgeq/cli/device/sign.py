"""`edgeq sign`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgeq.bundle.keys import load_private, public_of
from edgeq.bundle.release import Release, new_release
from edgeq.bundle.signature import sign_bundle
from edgeq.bundle.verify import read_listed
from edgeq.cli import console
from edgeq.cli.device.verify import said_of_signature
from edgeq.cli.flags import PATH, json_option
from edgeq.cli.progress import byte_bar

__all__ = ["command"]


@click.command("sign")
@click.argument("bundle", type=PATH)
@click.option("--key", type=PATH, required=True, help="The private key, NAME.private.pem of edgeq keygen.")
@click.option("--product", help="What the bundle is for; devices compare its releases.  [default: as it says already]")
@click.option(
    "--sequence", type=click.IntRange(1), help="Above that of the release before.  [default: seconds since 1970]"
)
@click.option("--expires", metavar="WHEN", help="A day such as 2027-06-30, or 90d; later it is not installed any more.")
@json_option
def command(
    bundle: Path, key: Path, product: str | None, sequence: int | None, expires: str | None, as_json: bool
) -> None:
    """Check every file of BUNDLE, a directory, and sign its manifest; a signature that is there is replaced.

    With --product, --sequence or --expires the manifest says from then on which release it is and when that was made,
    and the bundle has another digest: sign it before a catalog is made with it. Devices refuse a release that is older
    than one that they had.
    """
    signed_by = public_of(load_private(key)).id
    release = _release(bundle, product, sequence, expires)
    with byte_bar("checking") as report:
        signature = sign_bundle(bundle, key, release=release, report=report)
    told = release or read_listed(bundle).release
    if as_json:
        said = {} if told is None else {"product": told.product, "sequence": told.sequence}
        answer = {"signature": str(signature), "signed_by": signed_by, **said}
        console.print_json_text(json.dumps(answer, indent=1))
    else:
        click.echo(f"{bundle} is whole. {said_of_signature(signed_by)}")
    if told is None:
        click.echo("It says no product: no device can tell it from an older one. --product NAME mends that.", err=True)
    elif not as_json:
        click.echo(f"It is release {told.sequence} of {told.product}.")


def _release(bundle: Path, product: str | None, sequence: int | None, expires: str | None) -> Release | None:
    """What is to be written into the manifest; None to leave it as it is."""
    if product is None and sequence is None and expires is None:
        return None
    product = product or read_listed(bundle).product
    if product is None:
        raise click.UsageError("--sequence and --expires are of a product: --product NAME")
    return new_release(product, sequence, expires)
