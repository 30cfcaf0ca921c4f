"""jetson/FIRST_DAY.md: every command can be typed, and the rehearsal finds it; the page keeps to its ten."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import click
import pytest
from scratch import CHECKOUT, boot

from edgeq.cli import cli
from rehearsal.first_day import PAGE, DayCommand, lacking_lines, read_first_day

TEXT = PAGE.read_text(encoding="utf-8")
DAY = read_first_day(TEXT)
COMMANDS = [command for commands in DAY.values() for command in commands]
(_SENT,) = re.findall(r"^```text\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
SENT = [shlex.split(line) for line in _SENT.splitlines()]


def test_it_is_one_page_of_ten_commands() -> None:
    assert list(DAY) == list(range(1, 11))
    assert len(TEXT.splitlines()) < 110
    assert "FIRST_DAY.md" in (CHECKOUT / "jetson/README.md").read_text(encoding="utf-8")


def test_what_is_of_the_board_alone_is_marked() -> None:
    assert [number for number, commands in DAY.items() if all(command.board for command in commands)] == [10]
    assert all(command.prints or command.board for command in COMMANDS if command.words[0] != "cp")


def edgeq_words(words: Sequence[str]) -> list[str]:
    """Of a command that runs edgeq, what comes behind its name; else nothing."""
    at = [number for number, word in enumerate(words) if word == "edgeq" and words[0] in ("edgeq", "sudo")]
    return list(words[at[-1] + 1 :]) if at else []


@pytest.mark.parametrize(
    "words",
    [words for each in (*(command.words for command in COMMANDS), *SENT) if (words := edgeq_words(each))],
    ids=" ".join,
)
def test_edgeq_takes_every_word(words: list[str]) -> None:
    """Its own parser reads them; nothing is run."""
    before = words.index(">") if ">" in words else len(words)
    name, verb, rest = cli.resolve_command(click.Context(cli), words[:before])
    assert verb is not None
    verb.make_context(name, rest)


@pytest.mark.parametrize("number", [2, 3])
def test_the_installer_takes_every_word(number: int, tmp_path: Path) -> None:
    """On a make-believe board with JetPack 6."""
    wheels = tmp_path / "WHEELS"
    wheels.mkdir()
    for name in ("torch-2.9.1-cp310-cp310-linux_aarch64.whl", "bitsandbytes-0.50.2-py3-none-linux_aarch64.whl"):
        (wheels / name).touch()
    (command,) = DAY[number]
    script, *arguments = command.with_words({"WHEELS": str(wheels)})
    done = boot(tmp_path / "root", "6").run(Path(script).name, *arguments)
    assert (done.status, done.err, lacking_lines(done.out, command.prints)) == (0, "", [])


def test_lines_are_looked_for_in_their_order() -> None:
    wanted = ("a … c", "  two   words", "end")
    assert lacking_lines("x\na b c\ntwo words\nthe end\nend", wanted) == []
    assert lacking_lines("two words\na b c\nend", wanted) == ["  two   words", "end"]


def test_a_page_is_read() -> None:
    page = "**7.** Why.\n\n```console\n$ sudo -u edgeq edgeq run B\none\ntwo  # board\n$ sudo cp a b  # board\n```\n"
    assert read_first_day(page) == {
        7: (DayCommand(("edgeq", "run", "B"), "edgeq", ("one",)), DayCommand(("cp", "a", "b"), "", (), board=True))
    }
    with pytest.raises(ValueError, match="before any command"):
        read_first_day("**1.** Why.\n\n```console\none\n```\n")
