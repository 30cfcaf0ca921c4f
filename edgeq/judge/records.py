"""Answers as they come in, one a line, so that what was asked once is never asked again."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Lock
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from edgeq.errors import InputError, OutputError
from edgeq.files import read_plain
from edgeq.judge.target import Said

__all__ = ["Records"]

_VERSION: Final = "edgeq.judge-answers/1"


class _Head(BaseModel):
    """The first line: whose answers these are, and how long they may be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal["edgeq.judge-answers/1"] = _VERSION
    target: str
    max_new_tokens: int


class _Line(BaseModel):
    """One answer; `question` is `AskedQuestion.key`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: str
    said: Said


class Records:
    """The answers of one target, in memory and, where a file is given, in it as well.

    Args:
        path: a file in JSON lines that is made or gone on with; None records nothing. A last line that was cut off is
            cut away.
        target: `Target.identity`.
        max_new_tokens: of each answer.

    Raises:
        InputError: the file is another target's, or of answers of another length, or no such file.
        OutputError: it cannot be written.
    """

    def __init__(self, path: Path | None, target: str, max_new_tokens: int) -> None:
        self._path, self._lock = path, Lock()
        self._known: dict[str, Said] = {}
        if path is not None:
            self._open(path, _Head(target=target, max_new_tokens=max_new_tokens))

    def get(self, question: str) -> Said | None:
        """The answer to a question, by its key; None where it was not asked."""
        return self._known.get(question)

    def add(self, question: str, said: Said) -> None:
        """Remember an answer; raises OutputError where the file cannot be written."""
        with self._lock:
            if self._path is not None:
                _append(self._path, _Line(question=question, said=said))
            self._known[question] = said

    def _open(self, path: Path, head: _Head) -> None:
        if not path.exists():
            _append(path, head)
            return
        data = read_plain(path)
        whole = data[: data.rfind(b"\n") + 1]
        lines = whole.splitlines()
        begun = not lines and _encoded(head).startswith(data)
        try:
            found = head if begun else _Head.model_validate_json((lines or [data])[0])
            known = [_Line.model_validate_json(line) for line in lines[1:]]
        except ValidationError as error:
            raise InputError(f"{path} holds no answers", expected=f"JSON lines of {_VERSION}") from error
        if found != head:
            raise InputError(
                f"{path} has the answers of {found.target}, of {found.max_new_tokens} tokens at most",
                expected=f"{head.target}, of {head.max_new_tokens}",
                next_step="another file, or none",
            )
        self._known = {line.question: line.said for line in known}
        try:
            os.truncate(path, len(whole))
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
        if not lines:
            _append(path, head)


def _append(path: Path, line: BaseModel) -> None:
    try:
        with open(path, "ab") as file:
            file.write(_encoded(line))
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error


def _encoded(line: BaseModel) -> bytes:
    return line.model_dump_json().encode() + b"\n"
