"""`edgeq bundle`: pack, unpack, diff."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
from rich.markup import escape

from edgeq.api.device.bundles import this_device
from edgeq.bundle.diff import BundleDiff, Change, diff_bundles
from edgeq.bundle.manifest import Manifest
from edgeq.bundle.transport import SUFFIX, pack, unpack
from edgeq.cli import console
from edgeq.cli.device.verify import key_option
from edgeq.cli.flags import PATH, json_option
from edgeq.cli.groups import VerbGroup
from edgeq.cli.progress import byte_bar

__all__ = ["command"]


@click.group("bundle", cls=VerbGroup)
def command() -> None:
    """Pack a bundle into one file, unpack it, or compare two bundles."""


@command.command("pack")
@click.argument("bundle", type=PATH)
@click.option("-o", "--output", type=PATH, help=f"The file to make.  [default: BUNDLE{SUFFIX}]")
@json_option
def pack_command(bundle: Path, output: Path | None, as_json: bool) -> None:
    """Put BUNDLE, a directory, into one file; a signature in it travels along."""
    output = output or bundle.resolve().with_name(f"{bundle.resolve().name}{SUFFIX}")
    with byte_bar("packing") as report:
        manifest = pack(bundle, output, report=report)
    _tell(manifest, output, as_json)


@command.command("unpack")
@click.argument("file", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="A directory to make; it must not exist.")
@key_option
@click.option("--this-device", "here", is_flag=True, help="Check too that this device has what the bundle needs.")
@json_option
def unpack_command(file: Path, output: Path, keys: tuple[Path, ...], here: bool, as_json: bool) -> None:
    """Make a bundle's directory from FILE, which is checked while it is read; /dev/stdin will do."""
    with byte_bar("unpacking") as report:
        manifest = unpack(file, output, keys=keys, device=this_device() if here else None, report=report)
    _tell(manifest, output, as_json)


def _tell(manifest: Manifest, output: Path, as_json: bool) -> None:
    if as_json:
        console.print_json(manifest)
    else:
        click.echo(f"{output}: {len(manifest.files)} files, {manifest.total_bytes / 1e6:,.1f} MB.")


@command.command("diff")
@click.argument("before", type=PATH)
@click.argument("after", type=PATH)
@json_option
def diff_command(before: Path, after: Path, as_json: bool) -> None:
    """Show what changed from bundle BEFORE to bundle AFTER, both directories: files, needs, labels, figures."""
    diff = diff_bundles(before, after)
    if as_json:
        console.print_json(diff)
        return
    rows = [*_file_rows(diff), *_rows(diff.facts), *_rows(diff.figures)]
    if not rows:
        click.echo("The bundles are the same.")
        return
    shown = ([escape(cell) for cell in row] for row in rows)  # names and labels are no markup
    console.print_table("What changed", ("", "before", "after"), shown, numbers=())


def _file_rows(diff: BundleDiff) -> Iterator[tuple[str, str, str]]:
    """Each file that is not the same in both, with its bytes."""
    for file in diff.removed:
        yield file.name, f"{file.size:,} bytes", "none"
    for file in diff.added:
        yield file.name, "none", f"{file.size:,} bytes"
    for changed in diff.changed:
        yield changed.name, f"{changed.size_before:,} bytes", f"{changed.size_after:,} other bytes"


def _rows(changes: tuple[Change, ...]) -> Iterator[tuple[str, str, str]]:
    for change in changes:
        yield change.name, _shown(change.before), _shown(change.after)


def _shown(value: object) -> str:
    if value is None:
        return "none"
    return f"{value:,.5g}" if isinstance(value, float) else str(value)
