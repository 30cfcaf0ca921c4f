"""`edgeq verify-engine`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgeq.bundle.manifest import Kind
from edgeq.cli import console
from edgeq.cli.progress import progress_bars
from edgeq.engine.base import EngineBackend
from edgeq.engine.registry import BUILT, DEFAULT, RUNNING, require
from edgeq.engine.registry import backend as named
from edgeq.engine_store.candidate import open_candidate
from edgeq.engine_store.store import default_store
from edgeq.engine_store.verify_engine import SECONDS, EncoderReports, EngineReport, canary_sets, verify_engine
from edgeq.quality.latency import Percentiles
from edgeq.runtime.canary.canary_set import CanarySet
from edgeq.runtime.canary.report import CanaryCheck
from edgeq.tensorrt.loading import QuantizationMode

__all__ = ["command", "print_report"]

_PATH = click.Path(path_type=Path)
_HEADERS: Final[dict[Kind, tuple[str, str]]] = {
    "classifier": ("cosine to FP32", "class"),
    "vision-language": ("cosine to FP32", "answer"),
    "retrieval": ("cosine to the workshop's", ""),
}
"""Kind of bundle -> what is compared, and the sentence that is added."""


@click.command("verify-engine")
@click.argument("bundle", type=_PATH)
@click.option(
    "--backend",
    type=click.Choice(RUNNING),
    default=DEFAULT.name,
    show_default=True,
    help="What runs the engine.",
)
@click.option("--encoder", help="Of CLIP and SigLIP: text or vision alone.  [default: both]")
@click.option("--engine", type=_PATH, help="The engine's file.  [default: the bundle's graph; TensorRT: in the store]")
@click.option("--store", type=_PATH, help="TensorRT: directory of the engines, as for `edgeq build`.")
@click.option("--quantization", type=click.Choice(["implicit", "explicit"]), help="TensorRT: as for `edgeq build`.")
@click.option("--answers", is_flag=True, help="Ask a vision-language model the canaries' questions as well.")
@click.option(
    "--seconds",
    type=click.FloatRange(0.0, min_open=True),
    default=SECONDS,
    show_default=True,
    help="How long each engine is timed.",
)
@click.option("--threads", type=click.IntRange(1), help="Threads of one operator.  [default: all]")
@click.option("-o", "--output", type=_PATH, help="A report to write, to be sent back (JSON); it is replaced.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(
    bundle: Path,
    backend: str,
    encoder: str | None,
    engine: Path | None,
    store: Path | None,
    quantization: QuantizationMode | None,
    answers: bool,
    seconds: float,
    threads: int | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Run the canaries of BUNDLE through its engine on this device, compare, and time it.

    Canaries are images, and texts for CLIP and SigLIP, of which the bundle knows what the workshop saw. They go through
    the engine and, for comparison, through ONNX Runtime with the bundle's own graph. Exit status 1 where the engine
    does not compute what the workshop saw. Nothing is built here: `edgeq build` does that.
    """
    chosen = named(backend)
    _check_usage(chosen, store, quantization)
    require(chosen)
    sets = _chosen(canary_sets(bundle), encoder, engine)
    candidates = {
        name: open_candidate(
            bundle,
            canaries.manifest,
            canaries.graph,
            chosen,
            store or default_store(),
            encoder=name,
            file=engine,
            quantization=quantization,
            threads=threads,
        )
        for name, canaries in sets.items()
    }
    with progress_bars() as progress:
        reports = {
            name: verify_engine(
                bundle,
                sets[name],
                candidate,
                encoder=name,
                answers=answers,
                seconds=seconds,
                threads=threads,
                report=progress,
            )
            for name, candidate in candidates.items()
        }
    found = reports[""] if "" in reports else EncoderReports(encoders=reports)
    if output is not None:
        found.save(output)
    if as_json:
        console.print_json(found)
    for report in reports.values() if not as_json else ():
        print_report(report)
    for report in reports.values():
        report.raise_if_failed()


def _chosen(sets: dict[str, CanarySet], encoder: str | None, engine: Path | None) -> dict[str, CanarySet]:
    """The encoders that are verified; raises click.UsageError where they cannot be these."""
    if encoder is not None and encoder not in sets:
        several = [name for name in sets if name]
        raise click.UsageError(
            f"--encoder {encoder}: the bundle has {', '.join(several)}" if several else "--encoder: the bundle has one"
        )
    if encoder is None and engine is not None and len(sets) > 1:
        raise click.UsageError(f"--engine is one encoder's: say whose, with --encoder {' or '.join(sets)}")
    return sets if encoder is None else {encoder: sets[encoder]}


def _check_usage(backend: EngineBackend, store: Path | None, quantization: QuantizationMode | None) -> None:
    """Raise click.UsageError for options that a backend without built engines has no use for."""
    if not backend.built and (store is not None or quantization is not None):
        raise click.UsageError(f"{'--store' if store else '--quantization'} is for --backend {BUILT.name}")


def print_report(report: EngineReport) -> None:
    """What was found, for a person."""
    title = f"{report.encoder + ': ' if report.encoder else ''}{report.engine} in {report.backend}"
    table = Table(title=title, title_justify="left", box=SIMPLE)
    wanted, said = _HEADERS[report.canaries.kind]
    for name in ("canary", wanted, "relative error", "ONNX Runtime here", said, ""):
        table.add_column(name)
    others = report.reference.engine.canaries if report.reference else (None,) * len(report.canaries.canaries)
    for check, other in zip(report.canaries.canaries, others, strict=True):
        table.add_row(*map(Text, (check.image, *_cells(check, other))))  # a text is not taken for markup
    Console(highlight=False).print(table)
    for line in _lines(report):
        click.echo(line)


def _cells(check: CanaryCheck, other: CanaryCheck | None) -> tuple[str, ...]:
    """One canary against the workshop, its cosine to ONNX Runtime here, and what was made of it."""
    parity, classes, answer = check.parity, check.classes, check.answer
    said = ("same" if classes.known else f"{classes.engine}, not {classes.fp32}") if classes else ""
    if answer is not None:
        said = "same" if answer.same else f"{answer.chosen} of {answer.tokens} tokens"
    return (
        f"{parity.worst_cosine:.5f}" if parity else "none",
        f"{parity.worst_relative:.4f}" if parity else "none",
        f"{other.parity.worst_cosine:.5f}" if other and other.parity else "",
        said,
        "fails" if check.failure else "",
    )


def _lines(report: EngineReport) -> Iterator[str]:
    yield f"{report.engine}: {_latency(report.latency)}."
    if report.reference is not None:
        yield f"{report.reference.graph} in ONNX Runtime: {_latency(report.reference.latency)}."
    device = report.machine.device or report.machine.architecture
    yield f"On {device}, {report.machine.platform}, {report.power or 'not a Jetson'}."
    yield f"{report.conclusion[0].upper()}{report.conclusion[1:]}."


def _latency(found: Percentiles) -> str:
    tail = "too few runs for p99" if found.p99_ms is None else f"p99 {found.p99_ms:.2f} ms"
    return f"p50 {found.p50_ms:.2f} ms, {tail} ({found.runs} runs of batch {found.batch})"
