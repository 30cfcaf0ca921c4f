"""`edgeq lint`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeq.cli import console
from edgeq.cli.completion import files as complete_files
from edgeq.cli.exit_statuses import DONE, GATE
from edgeq.cli.flags import PATH, json_option

if TYPE_CHECKING:
    from edgeq.lint.report import FileFindings, Finding, LintReport

__all__ = ["command"]

_SHOWN = 3
"""Places of one rule in the table, without -v."""


def _list_rules(context: click.Context, _parameter: click.Parameter, value: Any) -> None:
    if not value or context.resilient_parsing:
        return
    from edgeq.lint.registry import RULES

    rows = [(rule.number, rule.name, rule.level, rule.says, rule.source) for rule in RULES]
    console.print_table("", ("rule", "name", "level", "advice", "source"), rows, numbers=())
    context.exit()


@click.command("lint")
@click.argument("files", nargs=-1, required=True, type=PATH, metavar="MODEL.onnx...", shell_complete=complete_files)
@click.option(
    "--select", multiple=True, metavar="RULE", help="Only these: TRT101, TRT1 or a name, with commas between."
)
@click.option("--ignore", multiple=True, metavar="RULE", help="Not these; it goes before --select.")
@click.option("--strict", is_flag=True, help="Warnings count as errors.")
@click.option("--plan", type=PATH, help="A plan.yaml that the graph should follow.")
@click.option(
    "--list-rules", is_flag=True, is_eager=True, expose_value=False, callback=_list_rules, help="Show all rules."
)
@click.option("--all", "show_all", is_flag=True, help=f"Show every place, not {_SHOWN} of each rule.")
@json_option
@click.pass_context
def command(
    context: click.Context,
    files: tuple[Path, ...],
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    strict: bool,
    plan: Path | None,
    show_all: bool,
    as_json: bool,
) -> None:
    """Read ONNX files against NVIDIA's rules for TensorRT: placement of Q/DQ pairs, types, what FP16 does not hold.

    Files of any maker are taken. No engine is built: TensorRT is not needed.

    Exit status 1: TensorRT would refuse a file (an error); with --strict, or something is slower or wrong (a warning).
    """
    from edgeq.api.workshop.lint import lint_model
    from edgeq.plan.precision import PrecisionPlan

    followed = None if plan is None else PrecisionPlan.load(plan)
    report = lint_model(*files, select=_words(select), ignore=_words(ignore), plan=followed)
    if as_json:
        console.print_json(report)
    else:
        _print(report, shown=None if show_all else _SHOWN)
    failing = report.count("error", "warning") if strict else report.count("error")
    context.exit(GATE if failing else DONE)


def _words(given: tuple[str, ...]) -> list[str]:
    """Each rule that was named, whether by an option of its own or between commas."""
    return [word.strip() for option in given for word in option.split(",")]


def _print(report: LintReport, shown: int | None) -> None:
    for file in report.files:
        rules: dict[str, list[Finding]] = {}
        for finding in file.findings:
            rules.setdefault(finding.rule, []).append(finding)
        title = f"{file.file}: opset {file.opset}, {file.nodes:,} nodes"
        rows = [row for found in rules.values() for row in _rows(found, shown)]
        if rows:
            console.print_table(title, ("rule", "level", "where", "what"), rows, numbers=())
            console.print_reasons((f"{found[0].rule} {found[0].name}", found[0].advice) for found in rules.values())
        else:
            click.echo(title)
        click.echo(_types(file))
        counts = Counter(finding.level for finding in file.findings)
        named = (f"{counts[level]} {level}{'s' * (counts[level] != 1)}" for level in ("error", "warning", "note"))
        click.echo(f"{', '.join(named)}.")


def _rows(found: list[Finding], shown: int | None) -> list[tuple[str, str, str, str]]:
    rows: list[tuple[str, str, str, str]] = [(each.rule, each.level, each.where, each.what) for each in found[:shown]]
    if shown is not None and len(found) > shown:
        rows.append(("", "", f"... and {len(found) - shown} more", ""))
    return rows


def _types(file: FileFindings) -> str:
    written, computed = (
        ", ".join(f"{kind} {share:.1f} %" for kind, share in shares.items()) or "none"
        for shares in (file.written, file.computed)
    )
    return f"Numbers written: {written}. Operators: {computed}."
