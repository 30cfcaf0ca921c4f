"""The commands of `jetson/FIRST_DAY.md`, and what each must print."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["PAGE", "DayCommand", "lacking_lines", "read_first_day"]

PAGE: Final = Path(__file__).resolve().parents[1] / "jetson/FIRST_DAY.md"

_BLOCK: Final = re.compile(r"^\*\*(\d+)\.\*\*.*?^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_BOARD: Final = "  # board"
_ANYTHING: Final = "…"


@dataclass(frozen=True)
class DayCommand:
    """One command.

    Attributes:
        words: without `sudo`.
        user: that it is run as; empty for root, and for whoever types it.
        prints: lines that it must print, in their order; `…` stands for anything.
        board: it can be run on a board alone.
    """

    words: tuple[str, ...]
    user: str
    prints: tuple[str, ...]
    board: bool = False

    def with_words(self, words: Mapping[str, str]) -> tuple[str, ...]:
        """Its words, some of them others."""
        return tuple(words.get(word, word) for word in self.words)


def read_first_day(text: str) -> dict[int, tuple[DayCommand, ...]]:
    """The commands of each number; lines that are to be seen on a board alone are left out of what is printed.

    Raises:
        ValueError: a block does not begin with a command.
    """
    return {int(number): tuple(_commands(block)) for number, block in _BLOCK.findall(text)}


def _commands(block: str) -> list[DayCommand]:
    found = list[DayCommand]()
    for line in block.splitlines():
        board, shown = line.endswith(_BOARD), line.removesuffix(_BOARD)
        if shown.startswith("$ "):
            words, user = _without_sudo(shlex.split(shown[2:]))
            found.append(DayCommand(words, user, (), board))
        elif not found:
            raise ValueError(f"{line!r} stands before any command")
        elif not board:
            last = found[-1]
            found[-1] = DayCommand(last.words, last.user, (*last.prints, shown), last.board)
    return found


def _without_sudo(words: list[str]) -> tuple[tuple[str, ...], str]:
    if words[:2] == ["sudo", "-u"]:
        return tuple(words[3:]), words[2]
    return tuple(words[1:] if words[0] == "sudo" else words), ""


def lacking_lines(printed: str, wanted: tuple[str, ...]) -> list[str]:
    """Which of the wanted lines do not come, one after the other, in what was printed; spaces count as one."""
    lines, lacking = iter(" ".join(line.split()) for line in printed.splitlines()), list[str]()
    for line in wanted:
        pattern = re.compile(".*".join(re.escape(part) for part in " ".join(line.split()).split(_ANYTHING)))
        if not any(pattern.fullmatch(each) for each in lines):
            lacking.append(line)
    return lacking
