"""`edgeq demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from edgeq.cli import console
from edgeq.cli.flags import PATH, json_option, threads_option
from edgeq.cli.progress import progress_bars
from edgeq.cli.workshop.prepare import print_prepared
from edgeq.demo.vlm.report import SCENES
from edgeq.errors import shell_word
from edgeq.quality.estimate import Estimate

if TYPE_CHECKING:
    from edgeq.demo.run import Demo
    from edgeq.demo.vlm.story import Row, Story

__all__ = ["command", "print_story"]

_LEGEND: Final = (
    "right: reports that are right word for word; as FP32: that the whole model gives, too;",
    "cosine: of the image's features with those of FP32, patch by patch.",
    "transformers runs the first two, edgeq the others: tok/s compare within a pair alone.",
)


@click.command("demo")
@click.option("-o", "--output", type=PATH, default=Path("edgeq-demo"), show_default=True, help="A directory to make.")
@click.option(
    "--scenes",
    type=click.IntRange(0),
    default=SCENES,
    show_default=True,
    help="Ask the vision-language model about so many scenes; 0 leaves it out, and needs no torch.",
)
@threads_option
@json_option
def command(output: Path, scenes: int, threads: int | None, as_json: bool) -> None:
    """Go the whole way on two small networks that come with edgeq; nothing is downloaded.

    A classifier tells corrosion, cracks and spalling from shadows and sound surfaces, on scenes that are drawn for it;
    it is put into INT8. A vision-language model reports on such scenes: what there is, where, how severe, and what to
    do. It is stored in four ways, and each is asked about the same unseen scenes.
    """

    from edgeq.demo.run import run_demo
    from edgeq.pipeline.classifier import Options

    with progress_bars() as progress:
        demo = run_demo(output, options=Options(threads=threads), scenes=scenes, progress=progress)
    console.print_warnings(demo.classifier.warnings)
    if as_json:
        console.print_json(demo)
        return
    print_prepared(demo.classifier)
    if demo.story:
        print_story(demo.story)
    _print_next(output, demo)


def print_story(story: Story) -> None:
    """The four ways beside each other, for a person."""
    header = ("", "vision", "text", "MB", "right", "as FP32", "cosine", "worst", "tok/s")
    console.print_table(
        f"A vision-language model stored in four ways, the same {story.scenes} unseen scenes",
        header,
        [_cells(row) for row in story.rows],
        numbers=header[3:],
    )
    for line in _LEGEND:
        click.echo(line)


def _cells(row: Row) -> tuple[str, ...]:
    alike = row.agreement is not None
    return (
        row.name,
        row.vision,
        row.language,
        f"{row.bytes / 1e6:.2f}",
        _percent(row.right),
        _percent(row.agreement) if row.agreement else "",
        f"{row.cosine:.5f}" if alike else "",
        f"{row.worst:.3f}" if alike else "",
        f"{row.tokens_per_second:.0f}",
    )


def _percent(estimate: Estimate) -> str:
    return f"{estimate.value:.1f} %"


def _print_next(output: Path, demo: Demo) -> None:
    """What to try now."""

    from edgeq.demo.run import EVALUATION, MODEL
    from edgeq.demo.vlm.story import ASKED, VLM, VLM_BUNDLE

    vlm = output / VLM_BUNDLE
    lines: list[tuple[object, ...]] = [
        ("inspect", output / MODEL),
        ("evaluate", demo.classifier.bundle, "--eval", output / EVALUATION, "--json"),
        *([("plan", output / VLM, "--device", "orin-nx-16gb")] if demo.story else ()),
        *([("run", vlm, output / ASKED / "0000.png", "What do you see?")] if demo.story else ()),
    ]
    for place, words in enumerate(lines):
        click.echo(f"{'      ' if place else 'next: '}edgeq {' '.join(map(shell_word, words))}")
    click.echo("      edgeq prepare YOUR_MODEL --images YOUR_IMAGES --eval YOUR_LABELLED_IMAGES -o BUNDLE")
