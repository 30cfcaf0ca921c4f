"""A bundle as a directory: its plain files, looked at without following any link."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from edgeq.bundle.contents import MANIFEST, SIGNATURE, not_a_bundle
from edgeq.bundle.copy import Advance, copy_bytes, read_exactly
from edgeq.bundle.errors import IrregularFileError, LengthError, LinkError

__all__ = ["copy_file", "entries", "read_small"]


def entries(directory: Path) -> tuple[tuple[str, int], ...]:
    """Name and size in bytes of every file below, sorted by name; not the manifest, its signature, or hidden ones.

    Raises:
        ManifestError: it is no directory.
        IrregularFileError: something below is neither a plain file nor a directory.
    """
    try:
        found = list(_walk(directory))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise not_a_bundle(directory, error) from error
    return tuple(sorted(entry for entry in found if entry[0] not in (MANIFEST, SIGNATURE)))


def _walk(directory: Path) -> Iterator[tuple[str, int]]:
    """As `entries`, in any order; a list instead of recursion, since others decide how deep it is."""
    waiting = [""]
    while waiting:
        above = waiting.pop()
        with os.scandir(directory / above) as inside:
            for entry in inside:
                name = above + entry.name
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{name}/")
                else:
                    yield name, _plain_size(entry.stat(follow_symlinks=False), directory / name)


def _plain_size(status: os.stat_result, path: Path) -> int:
    """The size of what must be a plain file."""
    if stat.S_ISLNK(status.st_mode):
        raise LinkError(f"{path} is a symbolic link", expected="plain files", causes=("it could lead anywhere",))
    if not stat.S_ISREG(status.st_mode):
        raise IrregularFileError(f"{path} is no plain file", expected="plain files in directories")
    return status.st_size


@contextmanager
def _open_plain(path: Path) -> Iterator[BufferedReader]:
    """Open a plain file for reading; neither a link is followed nor a pipe waited for.

    Raises:
        IrregularFileError: it is none.
        OSError: it cannot be opened.
    """
    if path.is_symlink():
        _plain_size(path.lstat(), path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _plain_size(
            os.fstat(descriptor), path
        )  # before it is a file to Python, which refuses directories in its own way
    except IrregularFileError:
        os.close(descriptor)
        raise
    with open(descriptor, "rb") as file:
        yield file


def read_small(path: Path, most_bytes: int) -> bytes:
    """All of a file whose length is looked at first.

    Raises:
        LengthError: it is larger than `most_bytes`, or shrinks meanwhile.
        IrregularFileError: it is no plain file.
        OSError: it cannot be read.
    """
    with _open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most_bytes:
            raise LengthError(f"{path} has {size:,} bytes", expected=f"at most {most_bytes:,}")
        try:
            return read_exactly(file, size)
        except EOFError as error:
            raise LengthError(f"{path} became shorter while it was read") from error


def copy_file(
    path: Path, size: int, *, sink: Callable[[memoryview], object] | None = None, advance: Advance | None = None
) -> str:
    """As `copy_bytes`, for a plain file of which `size` bytes were seen.

    Args:
        path: of the file.
        size: in bytes, as it was seen.
        sink, advance: as for `copy_bytes`.

    Raises:
        LengthError: it has become shorter.
        IrregularFileError: it is no plain file.
        OSError: it cannot be read.
    """
    with _open_plain(path) as source:
        try:
            return copy_bytes(source, size, sink=sink, advance=advance)
        except EOFError as error:
            raise LengthError(f"{path} became shorter while it was read") from error
