"""`edgeq report`."""

from __future__ import annotations

from pathlib import Path

import click
from pydantic import BaseModel, ConfigDict

from edgeq.cli import console
from edgeq.cli.device.verify import key_option
from edgeq.cli.flags import PATH, json_option

__all__ = ["command"]


class _Written(BaseModel):
    """What `--json` prints."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str = "edgeq.report/1"
    output: Path
    bytes: int


@click.command("report")
@click.argument("bundle", type=PATH)
@click.argument("other", type=PATH, required=False)
@click.option(
    "-o",
    "--output",
    type=PATH,
    default="report.html",
    show_default=True,
    help="The file to make, .html or .md; it is replaced.",
)
@click.option("--images", type=PATH, help="A folder or zip with the images that were judged, for their pictures.")
@key_option
@json_option
def command(
    bundle: Path, other: Path | None, output: Path, images: Path | None, keys: tuple[Path, ...], as_json: bool
) -> None:
    """Write what BUNDLE knows of itself as one page to send: figures, plan, memory, canaries, what is verified.

    The page needs no other file and no network. With OTHER, a second bundle, it shows what is different between the
    two. Both are checked first; without --key their signatures are not.
    """
    from edgeq.api.workshop.report import report

    written = report(bundle, output, beside=other, images=images, keys=keys)
    size = written.stat().st_size
    if as_json:
        console.print_json(_Written(output=written, bytes=size))
        return
    click.echo(f"{written}: {size / 1e3:,.0f} kB. It needs no other file.")
