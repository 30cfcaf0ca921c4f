"""`edgeq index`."""

from __future__ import annotations

import re
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, get_args

import click

from edgeq.api.device.retrieval import Indexed, index_images
from edgeq.catalog.build import BATCH
from edgeq.catalog.layout import SHARD_SIZE
from edgeq.cli import console
from edgeq.cli.flags import PATH, cluster_options, json_option, running_backend_option, threads_option
from edgeq.cli.progress import progress_bars
from edgeq.vector_index.kinds import IndexKind

__all__ = ["command"]

_GIGA = 1e9


@click.command("index")
@click.argument("bundle", type=PATH)
@click.option(
    "--images",
    "images",
    type=PATH,
    multiple=True,
    required=True,
    help="A folder, a zip or a webdataset tar; repeatable.",
)
@click.option("--output", "-o", "catalog", type=PATH, required=True, help="The catalog's directory; again goes on.")
@click.option("--shards", metavar="A-B", help="Make these alone, while other processes make the others.")
@click.option("--shard-size", type=click.IntRange(1), default=SHARD_SIZE, show_default=True, help="Images of a shard.")
@click.option("--batch", type=click.IntRange(1), default=BATCH, show_default=True, help="Images embedded at once.")
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Threads that decode.")
@click.option(
    "--kind",
    type=click.Choice(["auto", "none", *get_args(IndexKind)]),
    default="auto",
    show_default=True,
    help="Of the index; auto chooses by rows and memory.",
)
@click.option("--memory-gb", type=click.FloatRange(0, min_open=True), help="What the index may take.  [default: half]")
@click.option(
    "--gone",
    type=click.Choice(["refuse", "keep", "remove"]),
    default="refuse",
    show_default=True,
    help="What becomes of images of earlier runs whose folder or archive is not given now.",
)
@click.option("--key", "keys", type=PATH, multiple=True, help="The bundle must be signed by this one; repeatable.")
@cluster_options
@running_backend_option
@threads_option
@json_option
def command(
    bundle: Path,
    images: tuple[Path, ...],
    catalog: Path,
    shards: str | None,
    kind: str,
    memory_gb: float | None,
    gone: Any,
    as_json: bool,
    **choices: Any,
) -> None:
    """Embed images into a catalog with the BUNDLE of CLIP or SigLIP, and make an index to search them by.

    Stopped anywhere, the same command goes on; run again later, it takes new images and marks those that are gone.
    """
    # What Ray tells of actors that died it prints, and stdout may be read as JSON.
    with redirect_stdout(sys.stderr), progress_bars() as progress:
        found = index_images(
            bundle,
            images,
            catalog,
            shards=_range(shards) if shards else None,
            kind=None if kind == "none" else kind,  # type: ignore[arg-type]  # click has checked it
            memory_bytes=None if memory_gb is None else round(memory_gb * _GIGA),
            gone_sources=gone,
            progress=progress,
            say=console.say,
            **choices,
        )
    if as_json:
        console.print_json(found)
    else:
        _print(found)


def _range(text: str) -> tuple[int, int]:
    """The first and the last of `A-B`, or of one number."""
    match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if last < first:
        raise click.UsageError(f"--shards {text}: expected A-B, such as 0-99")
    return first, last


def _print(found: Indexed) -> None:
    if not found.complete:
        click.echo(f"These shards of {found.catalog} are there; others are still to be made, and then the index.")
        return
    live = found.rows - found.removed
    gone = f", {found.removed:,} that are gone are left out" if found.removed else ""
    skipped = ", ".join(f"{count:,} {reason}" for reason, count in found.skipped.items() if count)
    click.echo(f"{live:,} images in {found.shards} shards{gone}{f'; passed over: {skipped}' if skipped else ''}.")
    if found.index is not None:
        told = (
            "" if found.index.recall is None else f", recall@10 against exact search {100 * found.index.recall:.2f} %"
        )
        click.echo(f"Index: {found.index.kind}, {found.index.bytes / 1e6:,.1f} MB{told}; {found.because}.")
    click.echo(f"The catalog lies in {found.catalog}")
    if found.index is not None:
        console.print_next("edgeq", "search", found.catalog, "WORDS")
