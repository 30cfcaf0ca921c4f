"""A tar of images, as webdataset makes them: what belongs to an image has its key, which ends at the first dot."""

from __future__ import annotations

import os
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final

from edgeq.catalog.items import CAPTION_SUFFIX, JSON_SUFFIX, GoneError, Item, absolute, images_of
from edgeq.catalog.zips import MAX_MEMBERS
from edgeq.errors import ImageError
from edgeq.model.images.decode import MAX_ENCODED_BYTES
from edgeq.model.images.stores.tar_headers import Member, members

__all__ = ["TarSource", "webdataset_key"]

_BESIDE: Final = (CAPTION_SUFFIX, JSON_SUFFIX)


class TarSource:
    """The images of a tar, in the archive's order. Where a key has several, those with one ending are taken.

    So `7.jpg` is, and `7.mask.png` beside it is not; `photo.v2.jpg` alone is. Reading needs no lock: each member
    lies at a known place.

    Args:
        path: of the tar.
        most_members: beyond which it is refused.

    Raises:
        ImageError: it is no tar, is cut short, has a member that is not safe, or too many.
    """

    def __init__(self, path: Path, *, most_members: int = MAX_MEMBERS) -> None:
        self._path = absolute(path)
        self._file = _open(self._path)
        self._closed = weakref.finalize(self, self._file.close)  # also where nobody does it: others may still read
        self._members = self._listed(most_members)

    @property
    def passed_over(self) -> dict[str, int]:
        """How many members were not taken for images, by the reason; texts that belong to an image are not counted."""
        others = sum(PurePosixPath(name).suffix not in _BESIDE for name in self._members)
        others -= sum(1 for _ in self.items())
        return {"no image by its name": others} if others else {}

    def items(self) -> Iterator[Item]:
        """The images in their order."""
        images = list(images_of(self._members))
        plain = Counter(self.key(name) for name in images if _is_plain(name))
        for name in images:
            if _is_plain(name) or not plain[self.key(name)]:
                member = self._members[name]
                yield Item(self._path, name, member.size, _stamp(member))

    def read(self, item: Item) -> bytes:
        """The bytes of one image; raises GoneError where it is another by now, and ImageError."""
        member = self._members.get(item.name)
        if member is None or (member.size, _stamp(member)) != (item.size, item.stamp):
            raise GoneError(f"{item.path} is gone, or was changed since it was listed")
        return self._data(member, MAX_ENCODED_BYTES)

    def beside(self, item: Item, suffix: str, most: int) -> bytes | None:
        """What lies beside an image; see `Source.beside`. Raises ImageError."""
        member = self._members.get(self.key(item.name) + suffix)
        return None if member is None else self._data(member, most)

    def key(self, name: str) -> str:
        """The name up to the first dot of its last part."""
        return webdataset_key(name)

    def close(self) -> None:
        """Close the archive."""
        self._closed()

    def _listed(self, most: int) -> dict[str, Member]:
        length = os.fstat(self._file.fileno()).st_size
        found: dict[str, Member] = {}
        for member in members(self._file, length, self._path):
            name = PurePosixPath(member.name).as_posix()
            if name in found:
                raise ImageError(f"{self._path} has two members {name!r:.200}", next_step="make the tar again")
            if len(found) == most:
                raise ImageError(f"{self._path} has more than {most:,} members", next_step="split it")
            if not any(part.startswith(".") or part == "__MACOSX" for part in name.split("/")):
                found[name] = member
        return found

    def _data(self, member: Member, most: int) -> bytes:
        name = f"{self._path}/{member.name}"
        if member.size > most:
            raise ImageError(f"{name} is too long", expected=f"at most {most:,} bytes")
        try:
            data = os.pread(self._file.fileno(), member.size, member.offset)
        except (OSError, ValueError) as error:
            raise ImageError(f"{name} cannot be read: {error}") from error
        if len(data) != member.size:
            raise ImageError(f"{name} is cut short: {len(data):,} of {member.size:,} bytes are there")
        return data


def webdataset_key(name: str) -> str:
    """The name up to the first dot of its last part."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


def _is_plain(name: str) -> bool:
    return PurePosixPath(name).name.count(".") == 1


def _stamp(member: Member) -> str:
    return f"mtime:{member.mtime}"


def _open(path: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror or error}") from error
