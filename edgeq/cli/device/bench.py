"""`edgeq bench`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from edgeq.api.device.images import open_image
from edgeq.bench.report import BenchLoad, BenchReport
from edgeq.bench.run import BenchRequest, bench
from edgeq.bench.service_clients import ServiceAddress
from edgeq.cli import console
from edgeq.cli.device.bench_tables import print_report, print_reports
from edgeq.cli.flags import PATH, json_option, running_backend_option, threads_option
from edgeq.cli.progress import status_line
from edgeq.install.candidate_here import AUTO

__all__ = ["command"]

_MOST_CLIENTS = 256
_MOST_BATCH = 1024
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
    type=click.IntRange(2, 4096),
    default=64,
    show_default=True,
    help="Vision-language: of each answer, which the model may not end before.",
)
@click.option(
    "--clients",
    type=click.IntRange(1, _MOST_CLIENTS),
    multiple=True,
    default=(1, 4),
    show_default=True,
    help="Vision-language: how many ask at once; several times for several numbers.",
)
@click.option(
    "--batch",
    "batches",
    type=click.IntRange(1, _MOST_BATCH),
    multiple=True,
    default=(1, 8),
    show_default=True,
    help="Other bundles: images or texts in a run; several times for several numbers.",
)
@click.option(
    "--repeats",
    type=click.IntRange(1, 100_000),
    default=20,
    show_default=True,
    help="Of each measurement; a 99th percentile takes 100.",
)
@click.option(
    "--warmup", type=click.IntRange(0, 10_000), default=3, show_default=True, help="Runs before, that do not count."
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
    asked = BenchLoad(
        repeats=repeats,
        warmup=warmup,
        tokens=tokens,
        clients=tuple(dict.fromkeys(clients)),
        batches=tuple(dict.fromkeys(batches)),
        threads=threads,
    )
    picture = None if image is None else open_image(image)
    service = None if url is None else ServiceAddress.of(url, os.environ.get(_TOKEN))
    request = BenchRequest(paths[0], asked, backend, picture, question, service)
    with status_line() as progress:
        report = bench(request, progress)
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
