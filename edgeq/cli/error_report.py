"""What is said of an error: some lines on stderr, and with `--json` one object on stdout as well."""

from __future__ import annotations

import traceback
from typing import Literal

import click
from pydantic import BaseModel, ConfigDict

from edgeq.cli.invocation import Invocation
from edgeq.errors import EdgeqError
from edgeq.extras import extra_of, install_command
from edgeq.faults import known_fault

__all__ = ["ErrorReport", "tell_error", "tell_stopped", "tell_usage"]


class ErrorReport(BaseModel):
    """What `--json` prints where a verb ends with an error before it has printed its own object.

    Args:
        kind: the error's class.
        error: what happened.
        expected: what would have been right; empty where `error` says it.
        causes: likely ones, most likely first.
        hint: the next command or change; empty where there is none.
        exit_status: that the process ends with: docs/exit-statuses.md.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal["edgeq.error/1"] = "edgeq.error/1"
    kind: str
    error: str
    expected: str = ""
    causes: tuple[str, ...] = ()
    hint: str = ""
    exit_status: int


def tell_error(error: Exception, status: int, invocation: Invocation) -> None:
    """What went wrong, in a few lines; with a traceback where nobody foresaw it, or more is to be told.

    Args:
        error: of edgeq or of any library.
        status: that the process ends with.
        invocation: of the command line.
    """
    told = _explained(error)
    if told is None or invocation.verbosity:
        click.echo("".join(traceback.format_exception(error)).rstrip(), err=True)
    if told is not None:
        click.echo(f"error: {told}", err=True)
    _answer(
        ErrorReport(
            kind=type(error).__name__,
            error=told.what if told else f"{type(error).__name__}: {error}",
            expected=told.expected if told else "",
            causes=told.causes if told else (),
            hint=told.next_step if told else "",
            exit_status=status,
        ),
        invocation,
    )


def tell_usage(error: click.ClickException, status: int, invocation: Invocation) -> None:
    """What is wrong with the command line.

    Args:
        error: click's.
        status: the exit status.
        invocation: whether JSON is wanted, and was printed.
    """
    error.show()
    context = getattr(error, "ctx", None)
    hint = f"{context.command_path} --help" if isinstance(context, click.Context) else ""
    kind = type(error).__name__
    _answer(ErrorReport(kind=kind, error=error.format_message(), hint=hint, exit_status=status), invocation)


def tell_stopped(what: str, status: int, invocation: Invocation) -> None:
    """That it was stopped, or ended by a library.

    Args:
        what: a sentence.
        status: the exit status.
        invocation: whether JSON is wanted, and was printed.
    """
    click.echo(what, err=True)
    _answer(ErrorReport(kind="Stopped", error=what, exit_status=status), invocation)


def _answer(report: ErrorReport, invocation: Invocation) -> None:
    if invocation.as_json and not invocation.answered:
        click.echo(report.model_dump_json(indent=1))
        invocation.answered = True


def _explained(error: Exception) -> EdgeqError | None:
    """The error in edgeq's own words; None where nobody foresaw it."""
    if isinstance(error, EdgeqError):
        return error
    fault = known_fault(error)
    if fault is not None:
        return fault
    if isinstance(error, ImportError):
        return EdgeqError(str(error), next_step=install_command(extra_of(error.name)))
    if isinstance(error, OSError):  # of this machine: no right to read, a disk that fails
        return EdgeqError(str(error))
    return None
