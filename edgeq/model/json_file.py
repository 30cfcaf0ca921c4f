"""Reading a JSON object that somebody else wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgeq.errors import ModelError
from edgeq.model.recognise import HEAD_BYTES, recognise

__all__ = ["MAX_JSON_BYTES", "read_json_object"]

MAX_JSON_BYTES = 64 * 2**20
"""The largest JSON file read, in bytes."""


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ModelError: the file is missing, unreadable, too large, not UTF-8, malformed, or holds something else.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_JSON_BYTES:
        raise ModelError(f"{path} is too long for a config", expected=f"at most {MAX_JSON_BYTES:,} bytes")
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        found = recognise(data[:HEAD_BYTES])
        reason = f"it is {found}" if found and "JSON" not in found else str(error)
        raise ModelError(
            f"{path} is not valid JSON: {reason}", next_step=f"copy {path.name} again from where the model came"
        ) from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds a JSON {type(value).__name__}, expected an object")
    return value
