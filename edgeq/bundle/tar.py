"""The few forms of a tar archive that a bundle travels in: plain files, named and sized, one behind the other.

The format is POSIX.1-2001's pax interchange format (IEEE Std 1003.1, `pax`), which every tar reads. Python's `tarfile`
is not used: its reader takes in an extended header whole, however long that says it is, and its writer's bytes differ
from one Python to the next. Here what is not a plain file is refused by name, and no length is believed before it was
compared with a bound.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from typing import Final

from edgeq.bundle.contents import check_name
from edgeq.bundle.copy import read_exactly
from edgeq.bundle.errors import DuplicateFileError, IrregularFileError, LengthError, LinkError, TransportError
from edgeq.bundle.limits import Limits

__all__ = ["END", "Member", "header", "members", "padding"]

_BLOCK: Final = 512
_NAME_BYTES: Final = 100
_MAX_OCTAL: Final = 8**11 - 1
END: Final = bytes(2 * _BLOCK)
"""What an archive ends with."""

_MAX_TRAILING_BYTES: Final = 1 << 20
"""Zeros that may follow the end; GNU tar fills up to 10 KiB, more if told to."""

_MAX_PAX_BYTES: Final = 8 << 10
_PAX_TIMES: Final = frozenset({"mtime", "atime", "ctime"})
_PAX_RECORD: Final = re.compile(rb"([1-9][0-9]{0,4}) ([A-Za-z.]+)=", re.ASCII)
_OCTAL: Final = re.compile(rb" *([0-7]{1,12})[ \0]*")

_FILE: Final = (b"0", b"\0")
_EXTENDED: Final = b"x"
_LINKS: Final = {b"1": "a hard link", b"2": "a symbolic link"}
_OTHERS: Final = {
    b"3": "a character device",
    b"4": "a block device",
    b"5": "a directory",
    b"6": "a named pipe",
    b"7": "a contiguous file",
    b"g": "a global header",
    b"L": "a long name in GNU's form",
    b"K": "a long link in GNU's form",
    b"S": "a sparse file in GNU's form",
}


@dataclass(frozen=True)
class Member:
    """A plain file in an archive; its data come next in the stream."""

    name: str
    size: int


def header(name: str, size: int) -> bytes:
    """The header of a plain file, with nothing in it but name and size: the same file gives the same bytes.

    A name that is long or not ASCII, and a size of 8 GiB or more, go into an extended header before it.
    """
    records = b""
    if len(name) > _NAME_BYTES or not name.isascii():
        records += _record(b"path", name.encode())
    if size > _MAX_OCTAL:
        records += _record(b"size", b"%d" % size)
    extended = _block(b"pax", len(records), _EXTENDED) + records + padding(len(records)) if records else b""
    short = name.encode("ascii", "replace")[:_NAME_BYTES]
    return extended + _block(short, size if size <= _MAX_OCTAL else 0, _FILE[0])


def _block(name: bytes, size: int, kind: bytes) -> bytes:
    """One header block: name, mode, owner, group, size, time, checksum, kind, link, magic, names of owners, rest."""
    zero = b"0000000\0"
    start = name.ljust(_NAME_BYTES, b"\0") + b"0000644\0" + zero + zero + b"%011o\0" % size + b"%011o\0" % 0
    end = kind + bytes(100) + b"ustar\0" + b"00" + bytes(64) + zero + zero + bytes(167)
    return start + b"%06o\0 " % (sum(start) + sum(end) + 8 * ord(" ")) + end


def _record(key: bytes, value: bytes) -> bytes:
    """`LENGTH KEY=VALUE` and a newline, where the length counts its own digits."""
    rest = b" %s=%s\n" % (key, value)
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return b"%d%s" % (length, rest)


def padding(size: int) -> bytes:
    """The zeros behind `size` bytes of data."""
    return bytes(-size % _BLOCK)


def members(source: BufferedIOBase, where: str, limits: Limits) -> Iterator[Member]:
    """The members of an archive in their order, and then its end.

    The caller reads each member's data, all of it, before it asks for the next.

    Args:
        source: read from where it stands, never backwards.
        where: the file, for messages.
        limits: of names and sizes.

    Raises:
        EOFError: it ends too early.
        TransportError: it is no archive, or not one of plain files.
        UnsafeNameError, IrregularFileError, LengthError: a member's header says so.
    """
    seen: set[str] = set()
    while (member := _next(source, where)) is not None:
        check_name(member.name, where, most_bytes=limits.name_bytes)
        if member.name in seen:
            raise DuplicateFileError(f"{where} holds {member.name} twice", causes=("it was not made by edgeq",))
        if member.size > limits.file_bytes:
            raise LengthError(
                f"{where} gives {member.name} {member.size:,} bytes",
                expected=f"at most {limits.file_bytes:,}",
                causes=("its header lies",),
            )
        seen.add(member.name)
        yield member
        read_exactly(source, len(padding(member.size)))
    _check_end(source, where)


def _next(source: BufferedIOBase, where: str) -> Member | None:
    """The next plain file, with what an extended header before it says; None at the end."""
    block = read_exactly(source, _BLOCK)
    if block == bytes(_BLOCK):
        return None
    kind, member = _parse(block, where)
    extended: dict[str, str] = {}
    if kind == _EXTENDED:
        extended = _extended(source, member.size, where)
        kind, member = _parse(read_exactly(source, _BLOCK), where)
    name = extended.get("path", member.name)
    if kind in _LINKS:
        raise LinkError(f"{where} holds {_LINKS[kind]}, {name!r:.80}", expected="plain files")
    if kind not in _FILE:
        what = _OTHERS.get(kind, "a member of an unknown kind")
        raise IrregularFileError(f"{where} holds {what}, {name!r:.80}", expected="plain files")
    return Member(name, int(extended.get("size", member.size)))


def _parse(block: bytes, where: str) -> tuple[bytes, Member]:
    """Kind, name and size from one header block, whose checksum must be right.

    Offsets are those of POSIX's ustar: name 0, size 124, checksum 148, kind 156, magic 257, prefix of the name 345.
    """
    unsummed = block[:148] + b" " * 8 + block[156:]
    if block[257:262] != b"ustar" or _number(block[148:156], where) != sum(unsummed):
        raise _malformed(where, "a header is none of the tar format")
    name, prefix = (field.partition(b"\0")[0].decode("utf-8", "replace") for field in (block[:100], block[345:500]))
    if prefix and block[262:263] == b"\0":  # GNU's own form has something else there
        name = f"{prefix}/{name}"
    return block[156:157], Member(name, _number(block[124:136], where))


def _number(field: bytes, where: str) -> int:
    """Octal digits, or for what is too large for them GNU's form: a set bit, then the number in binary."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    found = _OCTAL.fullmatch(field)
    if found is None:
        raise _malformed(where, "a number in a header is none")
    return int(found[1], 8)


def _extended(source: BufferedIOBase, size: int, where: str) -> dict[str, str]:
    """`path` and `size` from an extended header of `size` bytes; times are passed over, anything else is refused."""
    if size > _MAX_PAX_BYTES:
        raise LengthError(f"{where} has an extended header of {size:,} bytes", expected=f"at most {_MAX_PAX_BYTES:,}")
    data = read_exactly(source, size)
    read_exactly(source, len(padding(size)))
    found: dict[str, str] = {}
    while data:
        start = _PAX_RECORD.match(data)
        length = int(start[1]) if start else 0
        if start is None or not start.end() < length <= len(data) or data[length - 1 : length] != b"\n":
            raise _malformed(where, "an extended header is none")
        key = start[2].decode("ascii")
        if key not in ("path", "size", *_PAX_TIMES):
            raise _malformed(where, f"an extended header sets {key!r:.40}")
        found[key] = data[start.end() : length - 1].decode("utf-8", "replace")
        data = data[length:]
    if not re.fullmatch(r"[0-9]{1,20}", found.get("size", "0"), re.ASCII):
        raise _malformed(where, "a size in an extended header is none")
    return found


def _check_end(source: BufferedIOBase, where: str) -> None:
    """A second block of zeros, and nothing behind it but zeros."""
    if any(read_exactly(source, _BLOCK)):
        raise _malformed(where, "a single block of zeros stands between members")
    trailing = source.read(_MAX_TRAILING_BYTES + 1)
    if len(trailing) > _MAX_TRAILING_BYTES or any(trailing):
        raise _malformed(where, "something follows its end")


def _malformed(where: str, cause: str) -> TransportError:
    return TransportError(
        f"{where} is not the transport file of a bundle",
        expected="a tar archive as edgeq bundle pack writes it",
        causes=(cause,),
    )
