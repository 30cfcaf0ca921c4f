"""Files: written so that a reader never sees half of one, named by their first bytes, read as JSON.

Every artifact goes through here: temporary name, sync, rename. A write which is interrupted (disk full, Ctrl-C, power)
leaves what was there before, and no temporary file. Power cuts are the reason for the syncs: without them a rename can
reach the disk before the bytes do.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from edgeq.errors import ModelError, OutputError
from edgeq.strict_json import read_json

__all__ = [
    "HEAD_BYTES",
    "MAX_JSON_BYTES",
    "atomic_write",
    "drop_pages",
    "new_directory",
    "open_plain",
    "read_json_object",
    "read_plain",
    "recognise",
    "require_new",
    "require_plain",
    "require_plain_files",
    "sha256_file",
]

HEAD_BYTES = 512
"""How many bytes from the start of a file `recognise` wants to see."""

_SIGNATURES = (
    (b"version https://git-lfs", "a git-LFS pointer, not the file itself (run `git lfs pull` where it came from)"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG", "a PNG image"),
    (b"GIF8", "a GIF image"),
    (b"%PDF", "a PDF document"),
    (b"GGUF", "a GGUF file (llama.cpp)"),
    (b"PK\x03\x04", "a zip archive or a PyTorch checkpoint (.pt, .bin)"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x80\x02", "a Python pickle or an old PyTorch checkpoint (.pt, .bin)"),
    (b"\x80\x03", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x80\x05", "a Python pickle"),
    (b"\x89HDF", "an HDF5 file (Keras)"),
    (b"\x7fELF", "a program or a library"),
)

MAX_JSON_BYTES = 64 * 2**20
"""The largest JSON file read, in bytes."""

_CHUNK_BYTES = 1 << 20
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_DISK_ERRORS = (*_DISK_FULL, errno.EFBIG, errno.EROFS, errno.EIO)


def atomic_write(path: Path, data: bytes | Callable[[BinaryIO], None]) -> None:
    """Write `path` in one step: it holds either all of `data` or what it held before.

    Args:
        path: the file; missing parent directories are made. An existing file is replaced.
        data: the bytes, or a function which writes them to the binary file it is given.

    Raises:
        OutputError: the disk is full, or the place cannot be written; names the file and the space needed.
    """
    path = Path(path)
    temporary = _temporary_sibling(path)
    needed = len(data) if isinstance(data, bytes) else None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            if isinstance(data, bytes):
                file.write(data)
            else:
                data(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        raise _output_error(path, error, needed) from error
    finally:  # after a KeyboardInterrupt too: nothing half-written may stay
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Give a temporary directory beside `path` to fill; on success it becomes `path`, otherwise it is removed.

    Args:
        path: a name which must not exist yet; missing parent directories are made.

    Raises:
        OutputError: `path` exists (even as an empty directory), its parent is a file, or the disk is full.
    """
    path = Path(path)
    _refuse_existing(path)
    temporary = _temporary_sibling(path)
    try:
        _make_directory(path, temporary)
        yield temporary
        _move_into_place(temporary, path)
    except OSError as error:
        if error.errno in _DISK_ERRORS:  # any other comes from what the caller does, and keeps its meaning
            raise _output_error(path, error, None) from error
        raise
    finally:  # after a KeyboardInterrupt or SystemExit too
        shutil.rmtree(temporary, ignore_errors=True)


def open_plain(path: Path) -> BufferedReader:
    """Open a plain file for reading, at once: a named pipe would let its reader wait for ever, a device never end.

    Args:
        path: of a file, or of a link to one.

    Raises:
        OSError: it is no plain file, or cannot be opened.
    """
    _check_plain(path, path.stat().st_mode)  # before: to open a device may do something
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        _check_plain(path, os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_plain(path: Path) -> bytes:
    """All bytes of a plain file whose length was looked at; raises OSError as `open_plain`."""
    with open_plain(path) as file:
        return file.read()


def require_plain(path: Path) -> None:
    """Raise OSError where `open_plain` would, for a library that opens the file by itself."""
    _check_plain(path, path.stat().st_mode)


def require_plain_files(directory: Path) -> None:
    """Look at what lies in a directory, for libraries that open files of it by themselves.

    Raises:
        ModelError: something in it is neither a file nor a directory.
    """
    try:
        for path in directory.iterdir():
            mode = path.stat().st_mode if path.exists() else stat.S_IFREG  # a link that leads nowhere opens nothing
            if not stat.S_ISDIR(mode):
                _check_plain(path, mode)
    except OSError as error:
        raise ModelError(
            f"{error.filename or directory} cannot be read: {error.strerror or error}", expected="plain files"
        ) from error


def _check_plain(path: Path, mode: int) -> None:
    """Raise OSError with the kind of what is no plain file."""
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    kind = "a named pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
    raise OSError(errno.EINVAL, f"it is {kind}, expected a plain file", str(path))


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes in hexadecimal, read in pieces of 1 MiB.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with open_plain(Path(path)) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def drop_pages(path: Path) -> None:
    """Drop a plain file from the page cache, as far as it is on the disk and nobody has it mapped.

    On a Jetson the page cache is memory of the GPU's, which it does not get in time by asking for more.

    Raises:
        OSError: the file cannot be opened, or is no plain one.
    """
    if not hasattr(os, "posix_fadvise"):  # not Linux
        return
    with open_plain(path) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _temporary_sibling(path: Path) -> Path:
    """A hidden, unused name in the same directory: a rename is one step only within one file system."""
    return path.parent / f".{path.name}.partial-{secrets.token_hex(4)}"


def _make_directory(path: Path, temporary: Path) -> None:
    """Make the temporary directory and its parents, or raise OutputError."""
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
    except OSError as error:
        raise _output_error(path, error, None) from error


def _move_into_place(temporary: Path, path: Path) -> None:
    """Sync the finished directory and give it its name, or raise OutputError."""
    try:
        _sync_tree(temporary)
        _refuse_existing(path)  # it may have come into being while we worked
        temporary.rename(path)
        _sync_directory(path.parent)
    except OSError as error:
        raise _output_error(path, error, None) from error


def _refuse_existing(path: Path) -> None:
    """Raise OutputError when something, even a dangling link, has the name already."""
    if os.path.lexists(path):
        raise OutputError(
            f"{path} exists already",
            expected="a name that does not exist yet; nothing is ever written over",
            next_step="choose another name or remove it",
        )


def require_new(path: Path) -> None:
    """Raise OutputError where something has the name of a file that long work would make."""
    if path.exists():
        raise OutputError(f"{path} exists already", next_step="choose another name, or remove it")


def _sync_tree(root: Path) -> None:
    """Flush every file and directory below `root` to the disk."""
    for directory, _, names in os.walk(root):
        for name in names:
            file = Path(directory, name)
            if file.is_file() and not file.is_symlink():
                _sync(file)
        _sync(Path(directory))


def _sync_directory(directory: Path) -> None:
    """Flush a directory, so that the new name survives a power cut."""
    try:
        _sync(directory)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync a directory
            raise


def _sync(path: Path) -> None:
    """fsync one file or directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _output_error(path: Path, error: OSError, needed: int | None) -> OutputError:
    """The OutputError which says what `error` means for `path`; `needed` is in bytes."""
    size = "" if needed is None else f" ({_megabytes(needed)} needed)"
    if error.errno in _DISK_FULL:
        return OutputError(
            f"the disk is full: {path} could not be written{size}; {_free_space(path)}",
            next_step="free some space or write to another disk with -o",
        )
    if error.errno == errno.EFBIG:
        return OutputError(
            f"{path} is larger than this file system or the shell's limit allows{size}",
            next_step="look at `ulimit -f`, or write to another disk with -o",
        )
    return OutputError(
        f"{path} cannot be written{size}: {error.strerror or error}",
        expected="a place where this user may create files",
        next_step="choose another place with -o",
    )


def _free_space(path: Path) -> str:
    """What is free on the disk of `path`, in words."""
    for directory in path.absolute().parents:
        if directory.is_dir():
            return f"{_megabytes(shutil.disk_usage(directory).free)} are free"
    return "the free space is not known"


def _megabytes(count: int) -> str:
    """A number of bytes in words, in units of 10^6."""
    return f"{count / 1e6:,.1f} MB"


def recognise(head: bytes) -> str | None:
    """What the first bytes of a file show it to be, in words, or None when they are of no known kind.

    Args:
        head: up to HEAD_BYTES bytes from the start of the file.
    """
    for signature, words in _SIGNATURES:
        if head.startswith(signature):
            return words
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < 1 << 32:
        return "a safetensors file"
    return _recognise_text(head)


def _recognise_text(head: bytes) -> str | None:
    """HTML and JSON, which often are error messages saved under the name of a model."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "an HTML or XML page (a download that failed?)"
    if text.startswith((b'{"', b"{\n", b"{\r", b"[{")):
        return "a JSON text"
    return None


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ModelError: the file is missing, unreadable, too large, not UTF-8, malformed, or holds something else.
    """
    try:
        with open_plain(path) as file:
            data = file.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_JSON_BYTES:
        raise ModelError(f"{path} is too long for a config", expected=f"at most {MAX_JSON_BYTES:,} bytes")
    try:
        value = read_json(data, mark=True)
    except ValueError as error:
        found = recognise(data[:HEAD_BYTES])
        reason = f"it is {found}" if found and "JSON" not in found else str(error)
        raise ModelError(
            f"{path} is not valid JSON: {reason}", next_step=f"copy {path.name} again from where the model came"
        ) from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds a JSON {type(value).__name__}, expected an object")
    return value
