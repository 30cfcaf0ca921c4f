"""Where images lie: a folder or a zip, behind the same two questions. Nothing is extracted to disk.

A zip comes from anywhere, so its member names are checked before any is used; a folder is the user's own, so links in
it are followed, but never in a circle.
"""

from __future__ import annotations

import os
import re
import stat
import threading
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Protocol

from edgeq.errors import ImageError
from edgeq.files import HEAD_BYTES, open_plain, recognise
from edgeq.model.images.decode import MAX_ENCODED_BYTES

__all__ = ["Folder", "ImageStore", "Zip", "folder_label", "read_file"]

_NO_CLASSES = frozenset({"image", "images", "img", "imgs", "jpeg", "jpegs", "jpg", "photos", "pictures", "png"})
"""Folders that hold a class's images, and are none."""
_DRIVE = re.compile(r"^[A-Za-z]:")
_ENCRYPTED = 0x1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class ImageStore(Protocol):
    """Named files, read one at a time from any thread."""

    def names(self) -> tuple[str, ...]:
        """Every file's name, with `/` between its parts, sorted; hidden files are left out."""
        ...

    def read(self, name: str) -> bytes:
        """The bytes of one file, at most MAX_ENCODED_BYTES; raises ImageError."""
        ...

    def head(self, name: str, count: int) -> bytes:
        """Its first bytes, at most `count`; raises ImageError."""
        ...

    def label(self, name: str) -> str | None:
        """What may be the class of one file; None where nothing says it."""
        ...


def folder_label(name: str) -> str | None:
    """The folder that may name a file's class: the nearest that is not called `images` or the like; None at the top.

    Args:
        name: of the file, with `/` between its parts.
    """
    folders = PurePosixPath(name).parts[:-1]
    named = next((folder for folder in reversed(folders) if folder.lower() not in _NO_CLASSES), None)
    return named or (folders[-1] if folders else None)


def read_file(path: Path, name: str) -> bytes:
    """The bytes of one file.

    Args:
        path: where it lies.
        name: what to call it in an error.

    Raises:
        ImageError: it is no regular file, cannot be read, or has more than MAX_ENCODED_BYTES.
    """
    return _limited(_start(path, name, MAX_ENCODED_BYTES + 1), name)


def _start(path: Path, name: str, count: int) -> bytes:
    """The first bytes of one file, at most `count`."""
    try:
        if path.exists() and not path.is_file():  # reading a pipe or a device could wait for ever
            raise ImageError(f"{name} is not a file", expected="an image")
        with open_plain(path) as file:
            return file.read(count)
    except OSError as error:
        raise ImageError(f"{name} cannot be read: {error.strerror or error}") from error


class Folder:
    """The files below a directory, at any depth. Each real directory is read once, so links cannot make a circle."""

    def __init__(self, root: Path) -> None:
        """List the files below `root`; raises ImageError when a directory cannot be read."""
        self._root = root
        self._names = tuple(sorted(_walk(root)))

    def names(self) -> tuple[str, ...]:
        """Every file's name relative to the folder."""
        return self._names

    def read(self, name: str) -> bytes:
        """The bytes of one file; raises ImageError."""
        return read_file(self._root / name, name)

    def head(self, name: str, count: int) -> bytes:
        """Its first bytes, at most `count`; raises ImageError."""
        return _start(self._root / name, name, count)

    def label(self, name: str) -> str | None:
        """The folder that may name its class."""
        return folder_label(name)


class Zip:
    """The members of a zip archive, read through one handle under a lock; it is closed with the object."""

    def __init__(self, path: Path) -> None:
        """Read the archive's directory; raises ImageError when it is damaged or has an unsafe member."""
        self._lock = threading.Lock()
        self._archive = _open_zip(path)
        self._members = _members(self._archive, path)

    def names(self) -> tuple[str, ...]:
        """Every member's name."""
        return tuple(sorted(self._members))

    def read(self, name: str) -> bytes:
        """The bytes of one member; raises ImageError. What it declares about its length is not believed."""
        data, size = self._start(name, MAX_ENCODED_BYTES + 1)
        if len(data) != size:
            raise ImageError(f"{name} has {len(data)} bytes, the zip says {size}")
        return _limited(data, name)

    def head(self, name: str, count: int) -> bytes:
        """Its first bytes, at most `count`; raises ImageError."""
        return self._start(name, count)[0]

    def label(self, name: str) -> str | None:
        """The folder that may name its class."""
        return folder_label(name)

    def _start(self, name: str, count: int) -> tuple[bytes, int]:
        """The first bytes of one member, at most `count`, and how many the zip says it has."""
        member = self._members.get(name)
        if member is None:
            raise ImageError(f"{name} is not in the zip")
        if member.file_size > MAX_ENCODED_BYTES:
            raise _too_long(name)
        try:
            with self._lock, self._archive.open(member) as file:
                return file.read(count), member.file_size
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
            raise ImageError(f"{name} cannot be read from the zip: {error}") from error


def _walk(root: Path) -> list[str]:
    """Names of all files below `root`; hidden ones and what a Mac adds are left out."""

    def refuse(error: OSError) -> None:
        raise ImageError(f"{error.filename} cannot be read: {error.strerror}") from error

    names: list[str] = []
    seen: set[tuple[int, int]] = set()
    for directory, folders, files in os.walk(root, followlinks=True, onerror=refuse):
        status = Path(directory).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not _hidden(name))
        names += [
            _relative(Path(directory, name), root)
            for name in files
            if not _hidden(name) and _readable(Path(directory, name))
        ]
    return names


def _relative(file: Path, root: Path) -> str:
    """A file's name below `root`; it must be text, because names go into reports and artifacts."""
    name = file.relative_to(root).as_posix()
    if not _is_text(name):
        raise ImageError(f"the file name {os.fsencode(name)!r} is not valid UTF-8", next_step="rename it")
    return name


def _is_text(name: str) -> bool:
    """Whether a name can be written as UTF-8."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _readable(file: Path) -> bool:
    """A regular file, or a dead link (reported when it is read). Opening a pipe or a device could wait for ever."""
    return file.is_file() or not file.exists()


def _hidden(name: str) -> bool:
    """Whether one part of a name is hidden by convention."""
    return name.startswith(".") or name == "__MACOSX"


def _open_zip(path: Path) -> zipfile.ZipFile:
    """The archive with its directory read, or ImageError naming what the file is instead."""
    try:
        with open_plain(path) as file:
            head = file.read(HEAD_BYTES)
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        found = None if head.startswith(b"PK") else recognise(head)
        raise ImageError(
            f"{path} is not a whole zip archive: {'it is ' + found if found else error}",
            expected="a folder or a zip of images",
            causes=("the copy or the download was cut short",) if head.startswith(b"PK") else (),
        ) from error
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror or error}") from error


def _members(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """The members by name; raises ImageError when any is unsafe, even one that would not be read."""
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        reason = _unsafe(member)
        name = PurePosixPath(member.filename).as_posix()
        if not reason and name in members:
            reason = "the name occurs twice"
        if reason:
            raise ImageError(
                f"{path} has a member {member.orig_filename!r} that is refused: {reason}",
                next_step="make the zip again without it",
            )
        if not member.is_dir() and not any(_hidden(part) for part in name.split("/")):
            members[name] = member
    return members


def _unsafe(member: zipfile.ZipInfo) -> str:
    """Why a member is refused, or an empty text."""
    name = member.orig_filename
    if name.startswith("/") or "\\" in name or "\0" in name or _DRIVE.match(name) or ".." in name.split("/"):
        return "its name leads out of the archive"
    if not _is_text(name):
        return "its name is not valid text"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "it is a symbolic link"
    if member.flag_bits & _ENCRYPTED:
        return "it is encrypted"
    if member.compress_type not in _METHODS:
        return f"it is compressed with method {member.compress_type}; only stored and deflated ones are read"
    return ""


def _limited(data: bytes, name: str) -> bytes:
    """The data, or ImageError when there is more than the limit."""
    if len(data) > MAX_ENCODED_BYTES:
        raise _too_long(name)
    return data


def _too_long(name: str) -> ImageError:
    """The error for a file beyond MAX_ENCODED_BYTES."""
    return ImageError(
        f"{name} is too long", expected=f"at most {MAX_ENCODED_BYTES:,} bytes", next_step="remove it or save it smaller"
    )
