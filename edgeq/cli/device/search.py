"""`edgeq search`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgeq.api.device.retrieval import open_search
from edgeq.cli import console
from edgeq.cli.flags import PATH, running_backend_option, threads_option
from edgeq.model.images.decode import IMAGE_SUFFIXES

__all__ = ["command"]


@click.command("search")
@click.argument("catalog", type=PATH)
@click.argument("query")
@click.option("--image", "is_image", is_flag=True, help="QUERY is an image; taken for one where it ends like one.")
@click.option("-k", type=click.IntRange(1), default=10, show_default=True, help="Images to show.")
@click.option("--bundle", type=PATH, help="That made the catalog.  [default: where it was then]")
@click.option("--key", "keys", type=PATH, multiple=True, help="The bundle must be signed by this one; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
@running_backend_option
@threads_option
def command(
    catalog: Path,
    query: str,
    is_image: bool,
    k: int,
    bundle: Path | None,
    keys: tuple[Path, ...],
    as_json: bool,
    backend: str,
    threads: int | None,
) -> None:
    """Find the images of CATALOG that go best with QUERY: words, or an image like them.

    A line is a score and a path.
    """
    search = open_search(catalog, bundle=bundle, keys=keys, threads=threads, backend=backend, say=console.say)
    image = is_image or (Path(query).suffix.lower() in IMAGE_SUFFIXES and Path(query).is_file())
    found = search.by_image(Path(query), k) if image else search.by_text(query, k)
    if as_json:
        results = [one.model_dump(mode="json") for one in found]
        console.print_json_text(json.dumps({"query": query, "results": results}, indent=1))
        return
    for one in found:
        click.echo(f"{one.score:.4f}  {one.image_path}")
