"""Verbs that have verbs below them: a near name is suggested, and each takes -v."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Final

import click

from edgeq.cli.invocation import verbose_option

__all__ = ["VerbGroup"]

_OTHERS: Final[Mapping[str, str]] = {
    "ask": "run",
    "benchmark": "bench",
    "check": "verify",
    "compile": "build",
    "convert": "prepare",
    "embed": "index",
    "info": "inspect",
    "quantise": "prepare",
    "test": "evaluate",
    "uninstall": "prune",
    "upgrade": "install",
}
"""What other tools call it."""


class VerbGroup(click.Group):
    """A group whose verbs all take -v, and that names the nearest one where there is none of a name."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb of a name, with -v."""
        command = self.find_command(ctx, cmd_name)
        if command is not None and all("--verbose" not in each.opts for each in command.params):
            command.params.append(verbose_option())
        return command

    def find_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The verb of a name, as it was declared."""
        return super().get_command(ctx, name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb that a command line begins with.

        Raises:
            click.UsageError: there is none of that name; near ones are named.
        """
        name = args[0]
        known = self.list_commands(ctx)
        if name in known or name.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        near = [_OTHERS[name]] if _OTHERS.get(name) in known else difflib.get_close_matches(name, known, n=2)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise click.UsageError(f"No such command {name!r}.{hint}", ctx)
