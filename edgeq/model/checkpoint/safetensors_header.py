"""The header of a safetensors file, checked against the file's length; weights are not read.

Format: https://github.com/huggingface/safetensors#format. Eight bytes with the header's length, a JSON header, then the
    data it lays out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeq.errors import ModelError
from edgeq.files import HEAD_BYTES, open_plain, recognise
from edgeq.strict_json import read_json

__all__ = ["MAX_HEADER_BYTES", "read_safetensors_header"]

MAX_HEADER_BYTES = 100_000_000
"""The longest header believed, in bytes; the format's own limit."""


def read_safetensors_header(path: Path) -> dict[str, Any]:
    """The header: tensor name -> `dtype`, `shape`, `data_offsets` (bytes after the header), without `__metadata__`.

    Raises:
        ModelError: the file is missing, cut short, or not a safetensors file.
    """
    try:
        size = path.stat().st_size
        with open_plain(path) as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
                raise _damaged(path)
            text = file.read(length)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    tensors = _parse(path, text)
    if 8 + length + _data_bytes(path, tensors) != size:
        raise _damaged(path)
    return tensors


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    """The header's JSON object without its metadata."""
    try:
        header = read_json(text)
    except ValueError as error:
        raise _damaged(path) from error
    if not isinstance(header, dict):
        raise _damaged(path)
    return {name: entry for name, entry in header.items() if name != "__metadata__"}


def _data_bytes(path: Path, tensors: dict[str, Any]) -> int:
    """Where the last tensor ends."""
    try:
        return max((int(entry["data_offsets"][1]) for entry in tensors.values()), default=0)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> ModelError:
    """The error for a file that is not whole."""
    with open_plain(path) as file:
        found = recognise(file.read(HEAD_BYTES))
    known = f": it is {found}" if found and "safetensors" not in found else ""
    return ModelError(
        f"{path} is not a whole safetensors file{known}",
        causes=("the copy or the download was cut short",),
        next_step=f"copy {path.name} again from where the model came",
    )
