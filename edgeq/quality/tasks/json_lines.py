"""Lines of JSON that a user has written: each read as a model, a fault told with its file and line."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from edgeq.errors import InputError

__all__ = ["read_line", "split_lines"]

_Line = TypeVar("_Line", bound=BaseModel)


def split_lines(data: bytes, place: str) -> list[tuple[str, bytes]]:
    """(where, line) of every line that is not blank.

    Args:
        data: of the file, with a byte order mark or without.
        place: the file, for messages.
    """
    lines = enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1)
    return [(f"{place}, line {number}", line) for number, line in lines if line.strip()]


def read_line(line: bytes, where: str, kind: type[_Line], expected: str) -> _Line:
    """One line as a model.

    Args:
        line: in UTF-8.
        where: file and line, for messages.
        kind: of the model.
        expected: its form in words.

    Raises:
        InputError: it is not UTF-8, no JSON object, has an unknown key, lacks one, or has one of a wrong type.
    """
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")  # pydantic's, for a programmer
        message = message.replace("Extra inputs are not permitted", "no such key is known")
        raise InputError(f"{where}: {key + ': ' if key else ''}{message}", expected=expected) from error
