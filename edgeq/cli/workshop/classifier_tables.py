"""What was done to a classifier and measured of it, for a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import click

from edgeq.calibrate.scales import Trial
from edgeq.cli.console import print_table
from edgeq.export.stage import ExportReport
from edgeq.quality.gate import Gate
from edgeq.quality.judge import Quality
from edgeq.quality.tasks.base import Headline
from edgeq.quality.tasks.embedding import output_row
from edgeq.quantize.equalize.record import EqualizationRecord
from edgeq.quantize.int8.registry import lowering_for
from edgeq.quantize.search.layer_search import Search, SearchStep
from edgeq.quantize.search.range_search import FLOAT_ADDITIONS

__all__ = ["print_export", "print_fold", "print_gate", "print_quality", "print_search", "print_trials"]


def print_export(report: ExportReport) -> None:
    """What the export stage did and proved, and which BatchNorm could not be folded, on stdout."""
    click.echo(f"BatchNorm: {report.batchnorm_before} before, {report.batchnorm_after} after.")
    if report.channel_affine:
        click.echo(
            f"Mul, Add, Sub and Div by channel: {len(report.channel_affine)} folded into the layers before them."
        )
    for name, reason in report.unfoldable.items():
        click.echo(f"  stays in FP32: {name}: {reason}")
    for name, change in report.outputs.items():
        click.echo(f"Output {name}: {change}.")
    if report.answers:
        behind = [name for name in report.parities if name not in report.answers]
        told = f"; behind it {', '.join(behind)}" if behind else ""
        click.echo(f"Answer: {', '.join(report.answers)}{told}.")
    parity, of = report.parity, "worst output's" if report.parities else "output's"
    click.echo(f"Parity: largest |error| is {parity.relative:.1e} of the {of} range on {parity.images} images.")


def print_fold(record: EqualizationRecord) -> None:
    """How channels were rescaled, what was tried, and where it would not have been exact."""
    if record.trials:
        rows = [(trial.fold, f"{trial.logit_error:.4f}", f"{trial.agreement:.1f} %") for trial in record.trials]
        title = f"Channel equalization, {record.trials[0].images} images held back"
        print_table(title, ("way", "logit error", "same class"), rows, numbers=("logit error", "same class"))
    kinds = Counter(point.kind for point in record.points)
    places = " and ".join(f"{count} {kind} layers" for kind, count in kinds.items()) or "nothing"
    proved = f", proved equal to {record.parity.relative:.1g} of the output range" if record.parity else ""
    click.echo(f"Channel fold {record.fold}: {places} rescaled{proved}. {record.refused}".rstrip())
    for place in record.left:
        if place.kind == "normalization":
            click.echo(f"  left alone: {place.layer}: {place.reason}")


def print_trials(trials: Sequence[Trial]) -> None:
    """Which method won for each backend, and by how much; nothing where none was tried."""
    most = max((trial.images for trial in trials), default=0)
    for backend in dict.fromkeys(trial.backend for trial in trials):
        tried = sorted((trial for trial in trials if trial.backend == backend), key=lambda trial: trial.logit_error)
        names = ", ".join(f"{_choice(trial)} {_outcome(trial, most)}" for trial in tried[:3])
        click.echo(f"Logit error on images held back, {backend}: {names}, ... worst {_outcome(tried[-1], most)}.")


def _outcome(trial: Trial, most: int) -> str:
    """The error, and on how many images where it was not run on all."""
    return f"{trial.logit_error:.4f}" + (f" on {trial.images}" if trial.images < most else "")


def _choice(trial: Trial) -> str:
    stored = lowering_for(trial.backend).stores_outputs  # otherwise one side of an addition never is
    if not stored or FLOAT_ADDITIONS in trial.method:
        return trial.method
    return f"{trial.method} ({'shared' if trial.shared_add else 'separate'} additions)"


def print_search(search: Search) -> None:
    """The frontier of a search, and what was chosen, on images that were not searched as well."""
    headline = search.steps[0].headline
    header = ("layers kept", "bytes in floating point", "drop", headline.alike, "x FP32 speed", "")
    rows = [_step_cells(step, place == search.chosen) for place, step in enumerate(search.steps)]
    print_table(
        f"Layers kept in floating point, for a drop of {headline.name} of at most {search.max_drop:g} {headline.unit}",
        header,
        rows,
        numbers=header[:5],
    )
    if search.check is not None:
        check = search.check.headline()
        alike = "" if check.agreement is None else f", {check.alike} {check.agreement:.2f} %"
        click.echo(f"On {check.examples} images that were not searched: drop {check.drop:.2f}{_doubt(check)}{alike}.")


def _step_cells(step: SearchStep, chosen: bool) -> tuple[str, ...]:
    headline = step.headline
    return (
        str(len(step.kept)),
        f"{step.share:.1f} %",
        f"{headline.drop:+.2f}{_doubt(headline)}",
        "" if headline.agreement is None else f"{headline.agreement:.2f} %",
        "" if step.speedup is None else f"{step.speedup:.2f}",
        "chosen" if chosen else "",
    )


def _doubt(headline: Headline) -> str:
    return "" if headline.standard_error is None else f" ± {headline.standard_error:.2f}"


def print_quality(title: str, quality: Quality, *, made: str = "INT8") -> None:
    """FP32 beside what was made of it: answers, latency, size.

    Args:
        title: above the table.
        quality: what was measured of both.
        made: heads the column of what was made.
    """
    rows = [*(quality.judged.rows() if quality.judged else ()), *map(output_row, quality.further)]
    rows += _latency_rows(quality)
    header = ("", "FP32", made, f"{made} against FP32")
    print_table(title, header, [*rows, _size_row(quality)], numbers=header[1:3])


def print_gate(gate: Gate) -> None:
    """What the gate decided of each graph, and why."""
    click.echo(f"Gate: {'INT8' if gate.passed else gate.kept} is kept: {'; '.join(gate.reasons)}.")
    for other in gate.others:
        decided = "is kept" if other.kept else "is not kept"
        click.echo(f"Gate: {other.graph}, for {other.made_for}, {decided}: {other.reason} (run by {other.run_by}).")
    if worst := gate.worst():
        click.echo(f"{worst[0].upper()}{worst[1:]}.")


def _latency_rows(quality: Quality) -> Iterator[tuple[str, str, str, str]]:
    for entry in quality.latency:
        factor = f"{entry.speedup:.2f} x as fast ({entry.speedup_low:.2f}..{entry.speedup_high:.2f})"
        name = f"batch {entry.batch}, {entry.threads} threads"
        yield name, f"{entry.reference_ms:.2f} ms", f"{entry.candidate_ms:.2f} ms", factor


def _size_row(quality: Quality) -> tuple[str, str, str, str]:
    ours, theirs = quality.reference_bytes, quality.candidate_bytes
    return "file", f"{ours / 1e6:.2f} MB", f"{theirs / 1e6:.2f} MB", f"{theirs / ours:.2f} x the size"
