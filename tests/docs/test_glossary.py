"""The glossary names only what there is."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from edgeq.cli import VERBS, cli
from edgeq.old_names import FILES, FLAGS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "glossary.md"
CODE = sorted(set(re.findall(r"`([^`]+)`", PAGE.read_text(encoding="utf-8"))))


def flags(command: click.Command, context: click.Context) -> Iterator[str]:
    """Every flag of a command and of those below it."""
    for parameter in command.params:
        yield from (*parameter.opts, *parameter.secondary_opts)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from flags(below, context)


def known(path: str) -> bool:
    """Whether a dotted path is a module, or an attribute of one."""
    try:
        importlib.import_module(path)
    except ModuleNotFoundError:
        module, _, name = path.rpartition(".")
        return hasattr(importlib.import_module(module), name)
    return True


def test_the_page_has_code_of_each_kind() -> None:
    assert sum(word.startswith("edgeq.") for word in CODE) >= 10
    assert sum(word.startswith("--") for word in CODE) >= 10
    assert sum(word.startswith("edgeq ") for word in CODE) >= 3


@pytest.mark.parametrize("path", [word for word in CODE if word.startswith("edgeq.")])
def test_each_path_exists(path: str) -> None:
    assert known(path)


def test_each_verb_exists() -> None:
    assert {word.split()[1] for word in CODE if word.startswith("edgeq ")} <= set(VERBS)


def test_each_flag_exists_now_or_is_still_read() -> None:
    there = {*flags(cli, click.Context(cli)), *FLAGS}
    assert {word.split()[0] for word in CODE if word.startswith("--")} <= there


def test_each_renamed_flag_and_file_is_in_the_table() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    for before, now in (*FLAGS.items(), *((before, now) for now, before in FILES.items())):
        assert [row for row in rows if f"`{before}`" in row.split("|")[1] and f"`{now}`" in row.split("|")[2]], before
