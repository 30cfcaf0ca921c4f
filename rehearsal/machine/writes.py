"""A disk with a cache that forgets: what a machine wrote is logged, and only what it had flushed is sure to be kept.

QEMU's `blklogwrites` logs every write and every flush in the form of Linux's dm-log-writes. When the power goes, writes
before the last flush are put onto the image; of those after it, some or all are lost.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

__all__ = ["Kept", "Write", "blocks", "keep", "read_log"]

_MAGIC: Final = 0x6A736677736872
_SUPER: Final = struct.Struct("<QQQI")
_ENTRY: Final = struct.Struct("<QQQQ")
_FLUSH, _FUA, _DISCARD, _MARK = 1, 2, 4, 8
_ALL_FLAGS: Final = _FLUSH | _FUA | _DISCARD | _MARK


@dataclass(frozen=True)
class Write:
    """One entry of a log.

    Attributes:
        offset: bytes into the disk.
        data: that were written; None where blocks were given back, or for a flush.
        flush: what came before is on the disk now.
        through: it is on the disk itself (FUA).
    """

    offset: int
    data: bytes | None
    flush: bool
    through: bool


@dataclass(frozen=True)
class Kept:
    """What became of a log's writes.

    Attributes:
        writes: in the log.
        unflushed: of them, those after the last flush.
        lost: of these, those that were not kept, or not whole.
    """

    writes: int
    unflushed: int
    lost: int


def blocks(overlay: Path, log: Path) -> tuple[str, ...]:
    """QEMU's -blockdev options of a disk that writes into an overlay and logs it; the node `disk` is the last.

    The files are never flushed on this machine, which goes on: the machine's own flushes are in the log.
    """
    return (
        f"driver=file,filename={overlay},node-name=overlay-file,cache.no-flush=on",
        "driver=qcow2,file=overlay-file,node-name=overlay",
        f"driver=file,filename={log},node-name=log,cache.no-flush=on",
        "driver=blklogwrites,file=overlay,log=log,node-name=disk",
    )


def read_log(log: BinaryIO) -> Iterator[Write]:
    """Every entry that is whole; what a kill left of the last one is passed over.

    Raises:
        ValueError: it is no such log.
    """
    head = log.read(_SUPER.size)
    magic, version, _, sector = _SUPER.unpack(head) if len(head) == _SUPER.size else (0, 0, 0, 0)
    if (magic, version) != (_MAGIC, 1) or sector < _ENTRY.size:
        raise ValueError("no log of writes, version 1")
    place = sector
    while True:
        log.seek(place)
        entry = log.read(_ENTRY.size)
        if len(entry) < _ENTRY.size:
            return
        first, count, flags, _ = _ENTRY.unpack(entry)
        if flags & ~_ALL_FLAGS or not (flags or count):
            return
        place += sector
        data = None
        if count and not flags & _DISCARD:
            log.seek(place)
            data = log.read(count * sector)
            if len(data) < count * sector:
                return
            place += count * sector
        yield Write(first * sector, data, bool(flags & _FLUSH), bool(flags & _FUA))


def keep(image: Path, log: Path, chance: random.Random | None, *, sector: int = 512) -> Kept:
    """Put a log's writes onto an image.

    Args:
        image: as it was before the machine was switched on.
        log: of all that it wrote until its power went.
        chance: draws which of the writes after the last flush are lost: a half of them, and of these a half are torn,
            with only their first sectors on the disk. None loses nothing that had reached the disk's cache.
        sector: bytes that are written whole or not at all.
    """
    with log.open("rb") as file:
        writes = list(read_log(file))
    last = max((number for number, write in enumerate(writes) if write.flush), default=-1)
    changes = [(number, write) for number, write in enumerate(writes) if write.data is not None]
    unflushed = lost = 0
    with image.open("r+b") as disk:
        for number, write in changes:
            assert write.data is not None
            data = write.data
            if number > last and not write.through:
                unflushed += 1
                if chance is not None and chance.random() < 1 / 2:
                    lost += 1
                    torn = chance.random() < 1 / 2
                    data = data[: chance.randrange(0, len(data) // sector) * sector] if torn else b""
            disk.seek(write.offset)
            disk.write(data)
    return Kept(len(changes), unflushed, lost)
