"""`edgeq bench`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from edgeq.api.device.bench import MOST_BATCH, MOST_CLIENTS, MOST_REPEATS, MOST_TOKENS, MOST_WARMUP, bench_bundle
from edgeq.bench.report import BenchReport
from edgeq.cli import console
from edgeq.cli.device.bench_tables import print_report, print_reports
from edgeq.cli.flags import PATH, json_option, running_backend_option, threads_option
from edgeq.cli.progress import status_line
from edgeq.install.candidate_here import AUTO

__all__ = ["command"]

_TOKEN = "EDGEQ_TOKEN"


@click.command("bench")
@click.argument("paths", metavar="BUNDLE", type=PATH, nargs=-1, required=True)
@click.option("--show", is_flag=True, help="Print one table of several reports, which stand in the place of BUNDLE.")
@click.option("--image", type=PATH, help="Vision-language: what is asked about.  [default: the bundle's first canary]")
@click.option("--question", help="Vision-language: about it.  [default: the canary's]")
@click.option(
    "--url",
    help="Vision-language: ask an `edgeq serve` on this machine that serves BUNDLE, such as http://127.0.0.1:8000; its "
    "token is the variable EDGEQ_TOKEN.",
)
@click.option(
    "--tokens",
    type=click.IntRange(2, MOST_TOKENS),
    default=64,
    show_default=True,
    help="Vision-language: of each answer, which the model may not end before.",
)
@click.option(
    "--clients",
    type=click.IntRange(1, MOST_CLIENTS),
    multiple=True,
    default=(1, 4),
    show_default=True,
    help="Vision-language: how many ask at once; several times for several numbers.",
)
@click.option(
    "--batch",
    "batches",
    type=click.IntRange(1, MOST_BATCH),
    multiple=True,
    default=(1, 8),
    show_default=True,
    help="Other bundles: images or texts in a run; several times for several numbers.",
)
@click.option(
    "--repeats",
    type=click.IntRange(1, MOST_REPEATS),
    default=20,
    show_default=True,
    help="Of each measurement; a 99th percentile takes 100.",
)
@click.option(
    "--warmup",
    type=click.IntRange(0, MOST_WARMUP),
    default=3,
    show_default=True,
    help="Runs before, that do not count.",
)
@running_backend_option
@threads_option
@click.option("-o", "--output", type=PATH, help="A report to write, to be sent back (JSON); it is replaced.")
@json_option
def command(
    paths: tuple[Path, ...],
    show: bool,
    image: Path | None,
    question: str | None,
    url: str | None,
    tokens: int,
    clients: tuple[int, ...],
    batches: tuple[int, ...],
    repeats: int,
    warmup: int,
    backend: str,
    threads: int | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure how quick BUNDLE is on this machine, beside what the machine allows at the most.

    Of a vision-language model: the vision encoder, the first token, further tokens, several clients at once, all
    through the runtime that `edgeq serve` has. Of others: latency, and throughput by batch. The report has percentiles,
    power mode, clocks, temperature, throttling, versions and the bundle's digest.
    """
    if show:
        reports = [BenchReport.load(path) for path in paths]
        _check_shown(output, as_json)
        print_reports([path.stem for path in paths], reports)
        return
    if url is not None and (threads is not None or backend != AUTO):
        raise click.UsageError("--threads and --backend are the service's own: they go not with --url")
    if len(paths) > 1:
        raise click.UsageError("one BUNDLE is measured at a time; --show takes several reports")
    with status_line() as progress:
        report = bench_bundle(
            paths[0],
            backend=backend,
            image=image,
            question=question,
            url=url,
            token=os.environ.get(_TOKEN),
            tokens=tokens,
            clients=clients,
            batches=batches,
            repeats=repeats,
            warmup=warmup,
            threads=threads,
            progress=progress,
        )
    if output is not None:
        report.save(output)
    if as_json:
        console.print_json(report)
    else:
        print_report(report)


def _check_shown(output: Path | None, as_json: bool) -> None:
    """Raise click.UsageError for what has no meaning with --show."""
    if output is not None or as_json:
        raise click.UsageError(f"{'-o' if output is not None else '--json'} goes not with --show")
