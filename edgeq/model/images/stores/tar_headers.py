"""The headers of a tar, read one by one; the data between them is passed over.

Python's `tarfile` is not used: it takes in an extended header whole, however long that says it is. Here no length is
believed before it was compared with a bound and with what the file has. Of the formats, ustar, pax and GNU's are read,
which is what Python, GNU tar and webdataset write.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from edgeq.errors import ImageError
from edgeq.files import recognise

__all__ = ["MAX_NAME_BYTES", "Member", "members"]

MAX_NAME_BYTES: Final = 4096
"""The longest name of an image, in bytes."""

_BLOCK: Final = 512
_MAX_EXTENDED_BYTES: Final = 64 << 10
_RECORD: Final = re.compile(rb"([1-9][0-9]{0,5}) ([^=\n]{1,200})=", re.ASCII)
_OCTAL: Final = re.compile(rb"[ \0]*([0-7]{0,12})[ \0]*")

_FILES: Final = (b"0", b"\0", b"7")
_FOLDER: Final = b"5"
_REFUSED: Final = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a named pipe",
    b"S": "a sparse file",
}


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar.

    Attributes:
        name: as it is written, checked.
        offset: of its data, in bytes from the start.
        size: of its data, in bytes.
        mtime: in seconds.
    """

    name: str
    offset: int
    size: int
    mtime: int


def members(file: BinaryIO, length: int, where: str) -> Iterator[Member]:
    """The files in a tar, in their order.

    Args:
        file: to read, at its start.
        length: of the file, in bytes.
        where: its path, for messages.

    Raises:
        ImageError: it is no tar, is cut short, or has a member that is refused.
    """
    offset, extended = 0, dict[str, str]()
    while (block := _block(file, offset, where)) != bytes(_BLOCK):
        kind, name, size, mtime = _parse(block, offset, where)
        data = offset + _BLOCK
        if kind in b"xgLK":
            _bounded(size, where)
            extended |= _extended(kind, _data(file, data, size, where))
        else:
            name, size = extended.get("path", name), _size(extended, size, where)
            extended = {}
            if kind != _FOLDER:
                _check(kind, name, where)
                yield Member(name, data, size, mtime)
        offset = data + size + -size % _BLOCK
        if data + size > length:
            raise _cut_short(where, f"{name!r:.200} should end at byte {data + size:,}, the file has {length:,}")


def _block(file: BinaryIO, offset: int, where: str) -> bytes:
    """The header at `offset`; an archive that ends where a header should be is cut short."""
    file.seek(offset)
    block = file.read(_BLOCK)
    if offset == 0 and block[257:262] != b"ustar":
        raise _no_tar(block, where)
    if len(block) < _BLOCK:
        raise _cut_short(where, f"the archive's end is missing at byte {offset:,}")
    return block


def _no_tar(block: bytes, where: str) -> ImageError:
    found = recognise(block) if block else "empty"
    return ImageError(
        f"{where} is no tar archive{f': it is {found}' if found else ''}",
        expected="a tar that is not compressed: in another, no image can be found without reading all before it",
        next_step="unpack it" if found == "a gzip archive" else "",
    )


def _parse(block: bytes, offset: int, where: str) -> tuple[bytes, str, int, int]:
    """Kind, name, size and time of a header, whose checksum must be right.

    Offsets are those of POSIX's ustar: name 0, size 124, time 136, checksum 148, kind 156, magic 257, prefix 345.
    """
    unsummed = block[:148] + b" " * 8 + block[156:]
    if block[257:262] != b"ustar" or _number(block[148:156], where) != sum(unsummed):
        raise ImageError(
            f"{where} is damaged: at byte {offset:,} there is no header", causes=("the copy is not whole",)
        )
    name = _text(block[:100], where)
    if block[262:263] == b"\0" and (prefix := _text(block[345:500], where)):  # GNU has something else there
        name = f"{prefix}/{name}"
    return block[156:157], name, _number(block[124:136], where), _number(block[136:148], where)


def _text(field: bytes, where: str) -> str:
    """The text of a field, up to its zero."""
    raw = field.partition(b"\0")[0]
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ImageError(f"{where} has a member {raw!r:.200}, whose name is not valid UTF-8") from error


def _number(field: bytes, where: str) -> int:
    """Octal digits, or for what is too large for them GNU's form: a set bit, then the number in binary."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    found = _OCTAL.fullmatch(field)
    if found is None:
        raise ImageError(f"{where} is damaged: a number in a header is none")
    return int(found[1] or b"0", 8)


def _bounded(size: int, where: str) -> None:
    """Raise ImageError where an extended header is too long to be one."""
    if size > _MAX_EXTENDED_BYTES:
        raise ImageError(
            f"{where} has an extended header of {size:,} bytes", expected=f"at most {_MAX_EXTENDED_BYTES:,}"
        )


def _data(file: BinaryIO, offset: int, size: int, where: str) -> bytes:
    file.seek(offset)
    data = file.read(size)
    if len(data) < size:
        raise _cut_short(where, "an extended header is not whole")
    return data


def _extended(kind: bytes, data: bytes) -> dict[str, str]:
    """`path` and `size` for the next member, from a pax header or a long name of GNU's; other keys are not."""
    if kind == b"L":
        return {"path": data.partition(b"\0")[0].decode("utf-8", "surrogateescape")}
    found: dict[str, str] = {}
    while kind == b"x" and (start := _RECORD.match(data)) is not None and start.end() < int(start[1]) <= len(data):
        value = data[start.end() : int(start[1]) - 1]
        if start[2] in (b"path", b"size"):
            found[start[2].decode()] = value.decode("utf-8", "surrogateescape")
        data = data[int(start[1]) :]
    return found


def _size(extended: dict[str, str], size: int, where: str) -> int:
    """The size of a member, which an extended header may say."""
    text = extended.get("size")
    if text is None:
        return size
    if not re.fullmatch(r"[0-9]{1,15}", text, re.ASCII):
        raise ImageError(f"{where} is damaged: an extended header has the size {text!r:.80}")
    return int(text)


def _check(kind: bytes, name: str, where: str) -> None:
    """Raise ImageError for a member that is no plain file, or whose name is not safe."""
    reason = _unsafe(name)
    if kind not in _FILES:
        reason = f"it is {_REFUSED.get(kind, 'of an unknown kind')}"
    if reason:
        raise ImageError(
            f"{where} has a member {name!r:.200} that is refused: {reason}", next_step="make the tar again without it"
        )


def _unsafe(name: str) -> str:
    """Why a name is refused, or an empty text."""
    parts = name.split("/")
    if not name or name.startswith("/") or "\\" in name or "\0" in name or ".." in parts or re.match("[A-Za-z]:", name):
        return "its name leads out of the archive"
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        return "its name is not valid UTF-8"
    return f"its name has {length:,} bytes" if length > MAX_NAME_BYTES else ""


def _cut_short(where: str, detail: str) -> ImageError:
    return ImageError(
        f"{where} is cut short: {detail}",
        causes=("the copy or the download was not finished", "the disk was full when it was written"),
        next_step="copy it again",
    )
