"""A zip of images: its central directory says what is there; `edgeq.model.images.stores.base` refuses the unsafe."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from edgeq.catalog.items import GoneError, Item, absolute, images_of, stem
from edgeq.errors import ImageError
from edgeq.model.images.stores.base import Zip

__all__ = ["MAX_MEMBERS", "ZipSource"]

MAX_MEMBERS: Final = 4_000_000
"""The most members of one archive."""


class ZipSource:
    """The images of a zip, sorted by name.

    Args:
        path: of the zip.
        most_members: beyond which it is refused.

    Raises:
        ImageError: it is damaged, has a member that is not safe, or too many.
    """

    def __init__(self, path: Path, *, most_members: int = MAX_MEMBERS) -> None:
        self._path = absolute(path)
        self._zip = Zip(Path(self._path))
        with zipfile.ZipFile(self._path) as archive:
            infos = archive.infolist()
        if len(infos) > most_members:
            raise ImageError(
                f"{path} has {len(infos):,} members", expected=f"at most {most_members:,}", next_step="split it"
            )
        named = {PurePosixPath(info.filename).as_posix(): info for info in infos}
        self._members = {name: (named[name].file_size, _stamp(named[name])) for name in self._zip.names()}

    @property
    def passed_over(self) -> dict[str, int]:
        """How many members were not taken for images, by the reason."""
        others = len(self._members) - sum(1 for _ in images_of(self._members))
        return {"no image by its name": others} if others else {}

    def items(self) -> Iterator[Item]:
        """The images by name."""
        for name in sorted(images_of(self._members)):
            yield Item(self._path, name, *self._members[name])

    def read(self, item: Item) -> bytes:
        """The bytes of one image, whose CRC is right; raises GoneError where it is another by now, and ImageError."""
        if self._members.get(item.name) != (item.size, item.stamp):
            raise GoneError(f"{item.path} is gone, or was changed since it was listed")
        return self._zip.read(item.name)

    def beside(self, item: Item, suffix: str, most: int) -> bytes | None:
        """What lies beside an image; see `Source.beside`. Raises ImageError."""
        name = self.key(item.name) + suffix
        if name not in self._members:
            return None
        if self._members[name][0] > most:
            raise ImageError(f"{self._path}/{name} is too long", expected=f"at most {most:,} bytes")
        return self._zip.read(name)

    def key(self, name: str) -> str:
        """The name without its ending."""
        return stem(name)

    def close(self) -> None:
        """The archive is closed with the object."""


def _stamp(info: zipfile.ZipInfo) -> str:
    return f"crc:{info.CRC:08x}"
