"""What lies at a path: a folder or a zip of image files, arrays, a parquet file, a tar, or a folder of such."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from edgeq.errors import ImageError
from edgeq.model.images.decode import IMAGE_SUFFIXES
from edgeq.model.images.stores.arrays import Arrays
from edgeq.model.images.stores.base import Folder, ImageStore, Zip, folder_label
from edgeq.model.images.stores.parquet import Parquet
from edgeq.model.images.stores.tar_store import Tar

__all__ = ["open_store"]

_KINDS: Final[Mapping[str, Callable[[Path], ImageStore]]] = {
    ".npy": Arrays,
    ".npz": Arrays,
    ".parquet": Parquet,
    ".tar": Tar,
}
_SPLIT: Final = re.compile(r"(train|test|val|valid|validation)[-_](.+)", re.IGNORECASE)


def open_store(path: Path) -> ImageStore:
    """What lies at `path`.

    Raises:
        ImageError: there is nothing, it is none of these, it is damaged, or it has a member that is not safe.
        InputError: it is a parquet file, and pyarrow is not installed.
    """
    try:
        if path.is_dir():
            return _opened_folder(path)
        if path.is_file():
            return _KINDS.get(path.suffix.lower(), Zip)(path)
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror or error}") from error
    raise ImageError(f"{path} does not exist", expected="a folder or a zip of images")


def _opened_folder(path: Path) -> ImageStore:
    """A folder of image files; where there are none, of other files that hold images."""
    folder = Folder(path)
    names = folder.names()
    if any(PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES for name in names):
        return folder
    files = [name for name in names if PurePosixPath(name).suffix.lower() in _KINDS]
    return Joined(path, files) if files else folder


class Joined:
    """Several files that hold images, each like a folder; safe from several threads.

    Hugging Face's `train-00000-of-00002.parquet` is called `train/00000-of-00002.parquet`: what a split is then is told
    as it is of folders.

    Args:
        root: the folder.
        files: their names below it.

    Raises:
        ImageError: one of them cannot be read.
        InputError: pyarrow is wanted, and not installed.
    """

    def __init__(self, root: Path, files: list[str]) -> None:
        self._stores = {_called(name): _KINDS[PurePosixPath(name).suffix.lower()](root / name) for name in files}
        self._names = {f"{prefix}/{name}": (prefix, name) for prefix in self._stores for name in self._inner(prefix)}

    def names(self) -> tuple[str, ...]:
        """Of all images."""
        return tuple(sorted(self._names))

    def label(self, name: str) -> str | None:
        """What the file says of it, else the folder that the file is in."""
        prefix, inner = self._names[name]
        return self._stores[prefix].label(inner) or folder_label(prefix)

    def read(self, name: str) -> bytes:
        """The encoded bytes of one image; raises ImageError."""
        prefix, inner = self._found(name)
        return self._stores[prefix].read(inner)

    def head(self, name: str, count: int) -> bytes:
        """Its first bytes, at most `count`; raises ImageError."""
        prefix, inner = self._found(name)
        return self._stores[prefix].head(inner, count)

    def _inner(self, prefix: str) -> tuple[str, ...]:
        return self._stores[prefix].names()

    def _found(self, name: str) -> tuple[str, str]:
        if name not in self._names:
            raise ImageError(f"{name} is not there")
        return self._names[name]


def _called(name: str) -> str:
    """The name of a file, with its split as a folder."""
    folder, slash, last = name.rpartition("/")
    match = _SPLIT.fullmatch(last)
    return f"{folder}{slash}{match[1].lower()}/{match[2]}" if match else name
