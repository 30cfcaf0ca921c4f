"""Completion in bash, zsh and fish: click's, which asks edgeq itself what may come next."""

from __future__ import annotations

import os
import sys
from typing import Final

import click
from click.shell_completion import CompletionItem, get_completion_class, shell_complete

__all__ = ["answer_shell", "completion_option", "files"]

SHELLS: Final = ("bash", "zsh", "fish")

_PROGRAM: Final = "edgeq"
_VARIABLE: Final = "_EDGEQ_COMPLETE"


def answer_shell(cli: click.Command) -> int | None:
    """What a shell asks for in the environment, on stdout, and the exit status; None where none asks."""
    asked = os.environ.get(_VARIABLE)
    return None if not asked else shell_complete(cli, {}, _PROGRAM, _VARIABLE, asked)


def files(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Files and directories, for a word that is often a path.

    Args:
        _context: click's, not looked at.
        _parameter: that the word is for, not looked at.
        incomplete: what is typed of it.
    """
    return [CompletionItem(incomplete, type="file")]


def _print_script(context: click.Context, _option: click.Parameter, shell: str | None) -> None:
    if shell is None or context.resilient_parsing:
        return
    kind = get_completion_class(shell)
    assert kind is not None, "the option's choices are click's"
    sys.stdout.write(kind(context.command, {}, _PROGRAM, _VARIABLE).source())
    context.exit()


def completion_option() -> click.Option:
    """--completion SHELL, which prints the script that a shell reads."""
    return click.Option(
        ["--completion"],
        type=click.Choice(SHELLS),
        is_eager=True,
        expose_value=False,
        callback=_print_script,
        help='Print what a shell reads to complete verbs and options: eval "$(edgeq --completion bash)".',
    )
