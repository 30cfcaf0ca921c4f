"""`edgeq doctor`."""

from __future__ import annotations

from pathlib import Path

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgeq.cli import console
from edgeq.cli.progress import status_line
from edgeq.doctor.finding import DoctorFinding, Examination
from edgeq.doctor.run import DoctorRequest, examine
from edgeq.errors import GateError
from edgeq.install.store import ROOT

__all__ = ["command"]

_PATH = click.Path(path_type=Path)
_MOST_GB = 1e6
_STYLES = {"ok": "green", "warning": "yellow", "missing": "bold red", "unknown": "dim"}


def _bytes(_context: click.Context, _parameter: click.Parameter, gigabytes: float | None) -> int | None:
    """An amount of memory; NaN is none."""
    if gigabytes is None:
        return None
    if not 0 < gigabytes <= _MOST_GB:
        raise click.BadParameter(f"{gigabytes:g} GB is no amount of memory")
    return round(gigabytes * 1e9)


@click.command("doctor")
@click.argument("bundle", type=_PATH, required=False)
@click.option("--root", "store", type=_PATH, default=ROOT, show_default=True, help="Where bundles are installed.")
@click.option(
    "--needs-memory",
    "needed_bytes",
    type=float,
    callback=_bytes,
    metavar="GB",
    help="Memory to take and give back; by default what the bundle's memory plan needs.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(bundle: Path | None, store: Path, needed_bytes: int | None, as_json: bool) -> None:
    """Look whether this machine is able to run bundles, and BUNDLE above all.

    Kernels are launched and memory is taken, each in a process of its own: nothing is changed, and what crashes there
    is a finding. Without BUNDLE the installed one is looked at. The exit status is 1 where something needed is missing.
    """
    with status_line() as progress:
        examination = examine(
            DoctorRequest(bundle=bundle, store=store, needed_bytes=needed_bytes),
            progress=lambda step, _done, _total: progress(step, 0, 0),
        )
    if as_json:
        console.print_json(examination)
    else:
        _print(examination)
    if not examination.able:
        missing = [finding.name for finding in examination.findings if finding.status == "missing"]
        raise GateError(f"this machine lacks something that is needed: {', '.join(missing)}")


def _print(examination: Examination) -> None:
    """A table for people: what each check saw, what it means, and the next step."""
    table = Table(box=SIMPLE)
    for name in ("check", "", "what was seen"):
        table.add_column(name, overflow="fold")
    for finding in examination.findings:
        status = Text(finding.status, style=_STYLES[finding.status])
        table.add_row(finding.name, status, _said(finding))
    Console(highlight=False).print(table)


def _said(finding: DoctorFinding) -> Text:
    """Plain text: what was read from the machine is not taken for markup."""
    lines = Text(finding.seen)
    if finding.means:
        lines.append(f"\n{finding.means}")
    if finding.next_step:
        lines.append(f"\nnext: {finding.next_step}", style="bold")
    return lines
