"""A folder of images: walked in order, never followed out of itself."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from edgeq.catalog.items import GoneError, Item, absolute, images_of, stem
from edgeq.errors import ImageError
from edgeq.files import open_plain
from edgeq.model.images.decode import MAX_ENCODED_BYTES

__all__ = ["FolderSource"]

_OTHER = "no image by its name"
_LEADS_OUT = "a link that leads out of the folder"
_IRREGULAR = "no regular file"


class FolderSource:
    """The images below a folder at any depth, sorted by name; hidden files and folders are left out.

    A link to a file inside is that file under another name. A link that leads out is passed over, and so is one to a
    folder, which could make a circle.
    """

    def __init__(self, root: Path) -> None:
        self._root = absolute(root)
        self._real = os.path.realpath(root)
        self._passed: Counter[str] = Counter()

    @property
    def passed_over(self) -> dict[str, int]:
        """How many files were not taken for images at the last listing, by the reason."""
        return dict(self._passed)

    def items(self) -> Iterator[Item]:
        """The images by name. Raises ImageError where a folder cannot be read or a name is not text."""
        self._passed.clear()
        yield from self._walk(self._root, "")

    def read(self, item: Item) -> bytes:
        """The bytes of one image; raises GoneError where it is another by now, and ImageError."""
        try:
            with open_plain(self._inside(item.name)) as file:
                status = os.fstat(file.fileno())
                if (status.st_size, _stamp(status)) != (item.size, item.stamp):
                    raise GoneError(f"{item.path} was changed since it was listed")
                return _at_most(file.read(MAX_ENCODED_BYTES + 1), item.path, MAX_ENCODED_BYTES)
        except FileNotFoundError as error:
            raise GoneError(f"{item.path} is gone") from error
        except OSError as error:
            raise ImageError(f"{item.path} cannot be read: {error.strerror or error}") from error

    def beside(self, item: Item, suffix: str, most: int) -> bytes | None:
        """What lies beside an image; see `Source.beside`. Raises ImageError."""
        name = self.key(item.name) + suffix
        try:
            path = self._inside(name)
            if not path.is_file():
                return None
            with open_plain(path) as file:
                return _at_most(file.read(most + 1), f"{self._root}/{name}", most)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ImageError(f"{self._root}/{name} cannot be read: {error.strerror or error}") from error

    def key(self, name: str) -> str:
        """The name without its ending."""
        return stem(name)

    def close(self) -> None:
        """Nothing stays open."""

    def _walk(self, directory: str, prefix: str) -> Iterator[Item]:
        try:
            with os.scandir(directory) as entries:
                # With `/` behind a folder's name, this order is that of the whole names.
                found = sorted(entries, key=lambda entry: entry.name + "/" * entry.is_dir(follow_symlinks=False))
        except OSError as error:
            raise ImageError(f"{directory} cannot be read: {error.strerror or error}") from error
        for entry in found:
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            name = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(entry.path, f"{name}/")
            elif (item := self._item(entry, name)) is not None:
                yield item

    def _item(self, entry: os.DirEntry[str], name: str) -> Item | None:
        """The image of this name; None, and counted, where it is none."""
        if not any(images_of([name])):
            self._passed[_OTHER] += 1
            return None
        _require_text(name)
        try:
            status = entry.stat()
        except OSError:  # a dead link, or removed a moment ago
            status = None
        if entry.is_symlink() and not self._stays_inside(entry.path):
            self._passed[_LEADS_OUT] += 1
        elif status is None or not stat.S_ISREG(status.st_mode):  # reading a pipe or a device could wait for ever
            self._passed[_IRREGULAR] += 1
        else:
            return Item(self._root, name, status.st_size, _stamp(status))
        return None

    def _stays_inside(self, path: str | Path) -> bool:
        return os.path.realpath(path).startswith(self._real.rstrip("/") + "/")

    def _inside(self, name: str) -> Path:
        """The path of a file; raises GoneError where a link has come to lead out since it was listed."""
        path = Path(self._root, name)
        if not self._stays_inside(path):
            raise GoneError(f"{path} leads out of the folder")
        return path


def _stamp(status: os.stat_result) -> str:
    return f"mtime:{status.st_mtime_ns}"


def _require_text(name: str) -> None:
    """Raise ImageError unless a name can be written as UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ImageError(f"the file name {os.fsencode(name)!r} is not valid UTF-8", next_step="rename it") from error


def _at_most(data: bytes, name: str, most: int) -> bytes:
    """The data; raises ImageError where there is more than `most`."""
    if len(data) > most:
        raise ImageError(f"{name} is too long", expected=f"at most {most:,} bytes")
    return data
