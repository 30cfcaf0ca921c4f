"""The fields of a message of protobuf as they lie in a file, without parsing what is in them.

Wire format: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Field", "message_fields"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10


@dataclass(frozen=True)
class Field:
    """One field of a message, by its place in the file.

    Attributes:
        number: by which the message knows it.
        start: where it begins.
        value: where its value begins.
        stop: where it ends.
    """

    number: int
    start: int
    value: int
    stop: int


def message_fields(data: bytes | mmap.mmap, at: int, end: int) -> Iterator[Field]:
    """The fields of a message, in their order; those inside of one are not opened.

    Args:
        data: in which the message lies.
        at, end: between these bytes.

    Raises:
        ValueError: it is no message.
        IndexError: the data end in the middle of a number.
    """
    while at < end:
        start = at
        key, at = _varint(data, at)
        kind, value = key & 7, at
        if kind == _VARINT:
            _, at = _varint(data, at)
        elif kind == _BYTES:
            length, value = _varint(data, at)
            at = value + length
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"no protobuf field begins at byte {start}")
        if at > end:
            raise ValueError(f"the protobuf field at byte {start} ends at {at}, beyond {end}")
        yield Field(key >> 3, start, value, at)


def _varint(data: bytes | mmap.mmap, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and where it ends."""
    number = 0
    for group in range(_LONGEST_VARINT):
        byte = data[at + group]
        number |= (byte & 0x7F) << (7 * group)
        if byte < 0x80:
            return number, at + group + 1
    raise ValueError(f"no number ends near byte {at}")
