"""`edgeq list`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click
from pydantic import BaseModel, ConfigDict
from rich.markup import escape

from edgeq.cli import console
from edgeq.cli.device.install import root_option, short
from edgeq.cli.flags import json_option
from edgeq.errors import GateError
from edgeq.install.listing import Version, installed

__all__ = ["command"]


class _Listing(BaseModel):
    """What `--json` prints."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal["edgeq.installed-versions/1"] = "edgeq.installed-versions/1"
    root: Path
    versions: tuple[Version, ...]


@click.command("list")
@root_option
@click.option("--check", is_flag=True, help="Read every file too; exit status 1 if one is damaged.")
@json_option
def command(root: Path, check: bool, as_json: bool) -> None:
    """Show the installed versions, the newest first: which is in use, which failed, and why."""
    versions = installed(root, check=check)
    if as_json:
        console.print_json(_Listing(root=root, versions=versions))
    else:
        _print(root, versions)
    damaged = [short(version.id) for version in versions if version.damage]
    if damaged:
        raise GateError(
            f"{len(damaged)} of {len(versions)} versions are damaged: {', '.join(damaged)}",
            causes=("the disk fails", "somebody wrote into the store"),
            next_step="install them again, which mends them",
        )


def _print(root: Path, versions: tuple[Version, ...]) -> None:
    header = ("version", "", "release", "MB", "installed", "from")
    rows = [tuple(escape(cell) for cell in _cells(version)) for version in versions]
    console.print_table(f"Installed in {root}", header, rows, numbers=("MB",))
    for version in versions:
        for remark in filter(None, (version.failed, version.damage)):
            click.echo(f"{short(version.id)}: {remark}")


def _cells(version: Version) -> tuple[str, ...]:
    return (
        short(version.id),
        version.use,
        f"{version.product} {version.sequence}" if version.product else "",
        f"{version.bytes / 1e6:,.1f}",
        version.installed[: len("2000-01-01T00:00")].replace("T", " "),
        version.source,
    )
