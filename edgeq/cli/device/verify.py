"""`edgeq verify`, and what other verbs of bundles share with it. None of it needs a package of the workshop."""

from __future__ import annotations

from pathlib import Path

import click
from pydantic import BaseModel, ConfigDict

from edgeq.api.device.bundles import this_device, verify
from edgeq.cli import console
from edgeq.cli.flags import PATH, json_option
from edgeq.cli.progress import byte_bar

__all__ = ["command", "key_option", "said_of_signature"]

key_option = click.option(
    "--key",
    "keys",
    type=PATH,
    multiple=True,
    help="A public key; the bundle must be signed by it. May be repeated: one of them must fit.",
)


class _Answer(BaseModel):
    """What `--json` prints."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str = "edgeq.verified/1"
    kind: str
    made_by: str
    digest: str
    signed_by: str | None
    files: int
    bytes: int
    product: str | None = None
    sequence: int | None = None
    made: str | None = None
    expires: str | None = None


@click.command("verify")
@click.argument("bundle", type=PATH)
@key_option
@click.option("--this-device", "here", is_flag=True, help="Check too that this device has what the bundle needs.")
@json_option
def command(bundle: Path, keys: tuple[Path, ...], here: bool, as_json: bool) -> None:
    """Check BUNDLE, a directory or an .edgeq.tar file: lengths, digests, signature, device.

    Without --key the signature is not looked at. Nothing is written.
    """
    device = this_device() if here else None
    with byte_bar("checking") as report:
        verified = verify(bundle, keys=keys, device=device, progress=report)
    manifest = verified.manifest
    answer = _Answer(
        kind=manifest.kind,
        made_by=manifest.made_by,
        digest=verified.digest,
        signed_by=verified.signed_by,
        files=len(manifest.files),
        bytes=manifest.total_bytes,
        product=manifest.product,
        sequence=manifest.sequence,
        made=manifest.made,
        expires=manifest.expires,
    )
    if as_json:
        console.print_json(answer)
        return
    click.echo(f"{bundle} is whole: {answer.files} files, {answer.bytes / 1e6:,.1f} MB, by {answer.made_by}.")
    click.echo(said_of_signature(verified.signed_by))
    if manifest.release is not None:
        until = f", to be installed before {manifest.expires}" if manifest.expires else ""
        click.echo(f"It is release {manifest.sequence} of {manifest.product}, made {manifest.made}{until}.")


def said_of_signature(signed_by: str | None) -> str:
    """The sentence that says whose signature was checked, or that none was."""
    if signed_by is None:
        return "Its signature was not checked: no key was given."
    return f"It was signed with the key {signed_by}."
