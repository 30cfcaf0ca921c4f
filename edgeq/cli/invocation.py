"""What was asked of this command line beside its verb: how much is told, and in which form."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import click

__all__ = ["Invocation", "current", "quiet_libraries", "verbose_option"]

_JSON: Final = "--json"


@dataclass
class Invocation:
    """One command line.

    Args:
        as_json: one object goes to stdout, also where it ends with an error.
        verbosity: how often `-v` was given.
        answered: the object is out.
    """

    as_json: bool = False
    verbosity: int = 0
    answered: bool = False

    @classmethod
    def of(cls, arguments: Sequence[str]) -> Invocation:
        """What a command line asks for, before anything else of it is understood."""
        words = list(arguments)
        options = words[: words.index("--")] if "--" in words else words
        return cls(as_json=_JSON in options)

    def tell_more(self, times: int) -> None:
        """Let libraries speak: their warnings and what they log at INFO, from two times on at DEBUG."""
        self.verbosity += times
        if not times:
            return
        logging.basicConfig(stream=sys.stderr, format="%(relativeCreated)d ms %(name)s: %(message)s")
        logging.getLogger().setLevel(logging.DEBUG if self.verbosity > 1 else logging.INFO)


def current() -> Invocation:
    """That of the verb which runs; one of its own where none does."""
    context = click.get_current_context(silent=True)
    found = None if context is None else context.find_object(Invocation)
    return found or Invocation()


def _count(context: click.Context, _option: click.Parameter, times: int) -> None:
    context.ensure_object(Invocation).tell_more(times)


def verbose_option() -> click.Option:
    """-v, for edgeq itself and for each verb: people write it at either place."""
    return click.Option(
        ["-v", "--verbose"],
        count=True,
        expose_value=False,
        callback=_count,
        help="Tell more on stderr: how long each stage took, what libraries say, where an error arose; -vv: all.",
    )


def quiet_libraries() -> None:
    """Keep what libraries tell their own users of coming releases from stderr, unless Python was asked to show it."""
    if not sys.warnoptions and not os.environ.get("PYTHONWARNINGS"):
        warnings.simplefilter("ignore", FutureWarning)
