"""Bytes through one buffer: hashed while they pass, so that a file of any size takes a mebibyte of memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from io import BufferedIOBase
from typing import Final

__all__ = ["Advance", "Report", "copy_bytes", "meter", "read_exactly"]

_BUFFER_BYTES: Final = 1 << 20

Advance = Callable[[int], None]
"""Called with the bytes just done."""

Report = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""


def copy_bytes(
    source: BufferedIOBase,
    size: int,
    *,
    sink: Callable[[memoryview], object] | None = None,
    advance: Advance | None = None,
) -> str:
    """Read exactly `size` bytes and return their SHA-256 in hexadecimal.

    Args:
        source: read from where it stands.
        size: in bytes.
        sink: is given each piece, which it must not keep.
        advance: called with the length of each piece.

    Raises:
        EOFError: the source ends before.
    """
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(min(size, _BUFFER_BYTES)))
    while size:
        piece = buffer[: source.readinto(buffer[: min(size, len(buffer))])]
        if not piece:
            raise EOFError(f"{size} bytes are missing")
        digest.update(piece)
        if sink:
            sink(piece)
        if advance:
            advance(len(piece))
        size -= len(piece)
    return digest.hexdigest()


def read_exactly(source: BufferedIOBase, size: int) -> bytes:
    """Read a few bytes; the caller has made sure that `size` is small.

    Raises:
        EOFError: the source ends before.
    """
    pieces = bytearray()
    while len(pieces) < size:
        piece = source.read(size - len(pieces))
        if not piece:
            raise EOFError(f"{size - len(pieces)} bytes are missing")
        pieces += piece
    return bytes(pieces)


def meter(report: Report | None, total: int) -> Advance:
    """A callback that counts up and reports the sum beside the total."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if report:
            report(done, total)

    return advance
