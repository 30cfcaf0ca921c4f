"""One image among many: where it lies, how long it is, and by what it is known again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, Protocol

from edgeq.errors import ImageError
from edgeq.model.images.decode import IMAGE_SUFFIXES

__all__ = [
    "CAPTION_SUFFIX",
    "JSON_SUFFIX",
    "GoneError",
    "Item",
    "Source",
    "absolute",
    "images_of",
    "stem",
]

CAPTION_SUFFIX: Final = ".txt"
JSON_SUFFIX: Final = ".json"

_IDENTITY_BYTES: Final = 16


class GoneError(ImageError):
    """An image is not there any more, or is not the one that was planned."""


@dataclass(frozen=True, slots=True)
class Item:
    """An image that was listed, not read.

    Attributes:
        source: the absolute path of the folder or archive.
        name: within it, with `/` between its parts.
        size: of the encoded image, in bytes.
        stamp: what else would be another if the image were: `mtime:` and nanoseconds for a file, seconds for a member
            of a tar; `crc:` and the CRC-32 in hexadecimal for a member of a zip.
    """

    source: str
    name: str
    size: int
    stamp: str

    @property
    def identity(self) -> bytes:
        """16 bytes that another image, or this one changed, does not have."""
        text = f"{self.source}\0{self.name}\0{self.size}\0{self.stamp}"
        return hashlib.blake2b(text.encode(), digest_size=_IDENTITY_BYTES).digest()

    @property
    def path(self) -> str:
        """Where it lies: the source's path, then the name; an archive is taken for a folder."""
        return f"{self.source}/{self.name}"


class Source(Protocol):
    """A folder or an archive of images. Reading is safe from several threads."""

    @property
    def passed_over(self) -> dict[str, int]:
        """How many files were not taken for images at the last listing, by the reason."""
        ...

    def items(self) -> Iterator[Item]:
        """The images, in an order that does not change; no image is read.

        Raises:
            ImageError: it is damaged or not safe.
        """
        ...

    def read(self, item: Item) -> bytes:
        """The encoded bytes of one image.

        Raises:
            GoneError: it is not there, or has another size or stamp.
            ImageError: it cannot be read, or is too long.
        """
        ...

    def beside(self, item: Item, suffix: str, most: int) -> bytes | None:
        """What lies beside an image under the same key with another ending; None where there is nothing.

        Args:
            item: the image.
            suffix: CAPTION_SUFFIX or JSON_SUFFIX.
            most: bytes that are read.

        Raises:
            ImageError: it cannot be read, or is longer.
        """
        ...

    def key(self, name: str) -> str:
        """What the files that belong to an image have in common."""
        ...

    def close(self) -> None:
        """Let go of open files."""
        ...


def absolute(path: str | Path) -> str:
    """A path from the root, without `..`; links stay what they are called."""
    return os.path.normpath(Path(path).absolute())


def stem(name: str) -> str:
    """A name without its last ending."""
    return str(PurePosixPath(name).with_suffix(""))


def images_of(names: Iterable[str]) -> Iterator[str]:
    """The names that end as images do."""
    return (name for name in names if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES)
