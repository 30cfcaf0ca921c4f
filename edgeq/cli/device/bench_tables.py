"""What a person sees of `edgeq bench`, within 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import click

from edgeq.bench.answers import AnswerFigures, ClientsFigures
from edgeq.bench.graphs import GraphFigures
from edgeq.bench.report import BenchMachine, BenchReport
from edgeq.bench.times import Times
from edgeq.cli import console

__all__ = ["print_report", "print_reports"]

_COLUMNS = ("", "p50", "p90", "p99", "median within", "runs")
_MOST_NAME = 18
_RATES = ("measured", "ceiling", "of it", "first p50", "answer p50", "p90")
_NUMBERS = ("p50", "p90", "p99", "median within", "runs")


def print_report(report: BenchReport) -> None:
    """One report, on stdout."""
    if report.answers is not None:
        _print_answers(report, report.answers)
    for figures in report.graphs:
        _print_graph(report, figures)
    if report.service:
        _print_rates(f"{report.bundle} over HTTP: tokens a second", map(_client_rates, report.service))
    for line in _lines(report):
        click.echo(line)


def print_reports(names: Sequence[str], reports: Sequence[BenchReport]) -> None:
    """A row for each report, on stdout.

    Args:
        names: of the files.
        reports: in their order.
    """
    console.print_table(
        "Medians, each in its power mode",
        ("report", "machine", "mode", "image ms", "most/s", "first ms", "tok/s", "ceiling"),
        [(name, *_row(report)) for name, report in zip(names, reports, strict=True)],
        numbers=("image ms", "most/s", "first ms", "tok/s", "ceiling"),
    )
    click.echo("most/s: images, texts or tokens with the batch or the clients that gave most. ceiling: tok/s of it.")


def _print_answers(report: BenchReport, figures: AnswerFigures) -> None:
    console.print_table(
        f"{report.bundle}: milliseconds, {figures.prompt_tokens} tokens of prompt, {figures.answer_tokens} of answer",
        _COLUMNS,
        [
            ("image processor", *_cells(figures.preparing)),
            ("vision encoder", *_cells(figures.image)),
            ("first token", *_cells(figures.first_token)),
            ("same image again", *_cells(figures.first_token_again)),
            ("further token", *_cells(figures.token)),
        ],
        numbers=_NUMBERS,
    )
    _print_rates("Tokens a second", _rates(report, figures))


def _print_rates(title: str, rows: Iterable[tuple[str, ...]]) -> None:
    console.print_table(title, ("", *_RATES), list(rows), numbers=_RATES)


def _rates(report: BenchReport, figures: AnswerFigures) -> Iterator[tuple[str, ...]]:
    """Of a prompt, of an answer, and of several clients."""
    ceiling = report.ceiling
    read, decode = (
        (None, None)
        if ceiling is None
        else (
            ceiling.prefill_tokens_per_second,
            ceiling.decode_tokens_per_second,
        )
    )
    yield "prompt", _rate(figures.prefill_tokens_per_second), _rate(read), _percent(figures.prefill_percent), "", "", ""
    yield "answer", _rate(figures.decode_tokens_per_second), _rate(decode), _percent(figures.decode_percent), "", "", ""
    yield from map(_client_rates, figures.clients)


def _client_rates(row: ClientsFigures) -> tuple[str, ...]:
    """Of so many clients."""
    return (
        f"{row.clients} client{'s' if row.clients > 1 else ''}",
        _rate(row.tokens_per_second),
        _rate(row.ceiling_tokens_per_second),
        _percent(row.percent),
        _ms(row.first_token.p50_ms),
        _ms(row.answer.p50_ms),
        _ms(row.answer.p90_ms),
    )


def _print_graph(report: BenchReport, figures: GraphFigures) -> None:
    rows = [(f"one {figures.what}, whole", *_cells(figures.whole), _rate(1e3 / figures.whole.p50_ms))]
    rows += [(f"batch {each.batch}", *_cells(each.run), _rate(each.per_second)) for each in figures.batches]
    console.print_table(
        f"{report.bundle}: milliseconds, and {figures.what}s a second",
        (*_COLUMNS, "per s"),
        rows,
        numbers=(*_NUMBERS, "per s"),
    )
    if figures.refused:
        click.echo(f"Not taken by the engine: batches of {', '.join(map(str, figures.refused))}.")


def _lines(report: BenchReport) -> Iterator[str]:
    if report.answers is not None or report.service:
        yield f"{report.ceiling_note[0].upper()}{report.ceiling_note[1:]}."
    machine = report.machine
    power = "not a Jetson" if machine.power is None else str(machine.power)
    name = machine.machine.device or machine.processor or machine.machine.architecture
    yield f"On {name}, {machine.processors} processors, {machine.machine.platform}; {power}; {report.backend}."
    conditions = str(report.conditions)
    yield f"{conditions[0].upper()}{conditions[1:]}."


def _row(report: BenchReport) -> tuple[str, ...]:
    """One report in the table of several."""
    machine, answers = report.machine, report.answers
    mode = (machine.power.name or "?") if machine.power else ""
    if answers is not None:
        rate = max(row.tokens_per_second for row in answers.clients)
        figures = (answers.image.p50_ms, rate, answers.first_token.p50_ms, answers.decode_tokens_per_second)
        return _name(machine), mode, *_shown(*figures), _percent(answers.decode_percent)
    if report.service:
        rate = max(row.tokens_per_second for row in report.service)
        return _name(machine), mode, *_shown(None, rate, report.service[0].first_token.p50_ms, None), ""
    image = next((each.whole.p50_ms for each in report.graphs if each.what == "image"), None)
    most = max((batch.per_second for each in report.graphs for batch in each.batches), default=None)
    return _name(machine), mode, *_shown(image, most, None, None), ""


def _name(machine: BenchMachine) -> str:
    return (machine.device or machine.machine.device or machine.processor or machine.machine.architecture)[:_MOST_NAME]


def _shown(image: float | None, most: float | None, first: float | None, rate: float | None) -> tuple[str, ...]:
    return _ms(image), _rate(most), _ms(first), _rate(rate)


def _cells(times: Times) -> tuple[str, ...]:
    """Percentiles, the interval of the median, and the number of runs."""
    within = "" if times.low_ms is None else f"{_ms(times.low_ms)}..{_ms(times.high_ms)}"
    return _ms(times.p50_ms), _ms(times.p90_ms), _ms(times.p99_ms), within, str(times.runs)


def _ms(value: float | None) -> str:
    """Milliseconds with three figures that count."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _rate(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0f} %"
