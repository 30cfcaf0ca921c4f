"""A tar of images, such as a shard of a webdataset: read where each member lies, never extracted."""

from __future__ import annotations

import os
import weakref
from pathlib import Path, PurePosixPath
from typing import Final

from edgeq.errors import ImageError
from edgeq.files import open_plain
from edgeq.model.images.decode import MAX_ENCODED_BYTES
from edgeq.model.images.stores.base import folder_label
from edgeq.model.images.stores.tar_headers import Member, members

__all__ = ["Tar"]

_MAX_MEMBERS: Final = 2_000_000


class Tar:
    """The files of one tar; safe from several threads.

    Args:
        path: of the tar, not compressed.

    Raises:
        ImageError: it is no tar, is cut short, or has a member that is not safe.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = open_plain(path)
        except OSError as error:
            raise ImageError(f"{path} cannot be read: {error.strerror or error}") from error
        self._closed = weakref.finalize(self, self._file.close)
        self._members: dict[str, Member] = {}
        for member in members(self._file, os.fstat(self._file.fileno()).st_size, str(path)):
            name = PurePosixPath(member.name).as_posix()
            if name in self._members:
                raise ImageError(f"{path} has two members {name!r:.200}", next_step="make the tar again")
            if len(self._members) == _MAX_MEMBERS:
                raise ImageError(f"{path} has more than {_MAX_MEMBERS:,} members", next_step="split it")
            if not any(part.startswith(".") or part == "__MACOSX" for part in name.split("/")):
                self._members[name] = member

    def names(self) -> tuple[str, ...]:
        """Every member's name."""
        return tuple(sorted(self._members))

    def label(self, name: str) -> str | None:
        """The folder in the tar that may name its class."""
        return folder_label(name)

    def read(self, name: str) -> bytes:
        """The bytes of one member; raises ImageError."""
        member = self._members.get(name)
        if member is None:
            raise ImageError(f"{name} is not in the tar")
        if member.size > MAX_ENCODED_BYTES:
            raise ImageError(f"{name} is too long", expected=f"at most {MAX_ENCODED_BYTES:,} bytes")
        return self._start(name, member, member.size)

    def head(self, name: str, count: int) -> bytes:
        """Its first bytes, at most `count`; raises ImageError."""
        member = self._members.get(name)
        if member is None:
            raise ImageError(f"{name} is not in the tar")
        return self._start(name, member, min(count, member.size))

    def _start(self, name: str, member: Member, count: int) -> bytes:
        try:
            data = os.pread(self._file.fileno(), count, member.offset)
        except (OSError, ValueError) as error:
            raise ImageError(f"{name} cannot be read from the tar: {error}") from error
        if len(data) != count:
            raise ImageError(f"{name} is cut short: {len(data):,} of {count:,} bytes are there")
        return data
