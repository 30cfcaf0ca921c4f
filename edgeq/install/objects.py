"""Every file once: put into the store under its SHA-256, checked on the way, and on the disk before it is named."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from edgeq.bundle.contents import BundledFile
from edgeq.bundle.copy import Advance
from edgeq.bundle.directory import copy_file
from edgeq.errors import ArtifactError, OutputError
from edgeq.files import atomic_write, drop_pages, sha256_file
from edgeq.install.store import Store, sync_directory

__all__ = ["RESERVE_BYTES", "check_space", "is_whole", "missing_bytes", "put"]

RESERVE_BYTES: Final = 16 << 20
"""Left free beyond the files themselves: for names, links and records."""

_READ_ONLY: Final = 0o444


def missing_bytes(store: Store, files: Iterable[BundledFile]) -> int:
    """What has to be written: bytes of the files that the store does not have, those of equal content once."""
    missing = {file.sha256: file.size for file in files if not store.object(file.sha256).exists()}
    return sum(missing.values())


def check_space(store: Store, needed: int) -> None:
    """Raise OutputError unless `needed` bytes can be written, and a little more."""
    free = shutil.disk_usage(store.root).free
    if free < needed + RESERVE_BYTES:
        raise OutputError(
            f"the disk of {store.root} is too full: {needed / 1e6:,.1f} MB are needed, {free / 1e6:,.1f} MB are free",
            expected=f"{RESERVE_BYTES / 1e6:,.1f} MB more than the files take",
        )


def put(store: Store, source: Path, file: BundledFile, *, move: bool, advance: Advance | None = None) -> bool:
    """Make sure that the store has a file, whole; say whether it was written.

    Args:
        store: to put it into.
        source: with these bytes.
        file: its size and digest.
        move: `source` is in the store, is private and was checked: give it another name. Otherwise it is copied, and
            checked while it is.
        advance: called with the length of each piece copied.

    Raises:
        ArtifactError: what was copied is not what was announced.
        OutputError: the disk is full, or fails.
    """
    path = store.object(file.sha256)
    missing = not is_whole(path, file)
    if missing:
        _make_directory(path.parent)
        if move:
            _move(source, path)
        else:
            atomic_write(path, partial(_copy, source, file, advance))
            path.chmod(_READ_ONLY & path.stat().st_mode)
            drop_pages(source)
    drop_pages(path)
    return missing


def is_whole(path: Path, file: BundledFile) -> bool:
    """Whether a file is there with the right size and digest."""
    try:
        return path.stat().st_size == file.size and sha256_file(path) == file.sha256
    except FileNotFoundError:
        return False


def _make_directory(directory: Path) -> None:
    if not directory.is_dir():
        directory.mkdir()
        sync_directory(directory.parent)


def _move(source: Path, path: Path) -> None:
    """Rename within the store: the bytes first reach the disk, then their new name does."""
    source.chmod(_READ_ONLY & source.stat().st_mode)
    descriptor = os.open(source, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    source.replace(path)
    sync_directory(path.parent)


def _copy(source: Path, file: BundledFile, advance: Advance | None, target: BinaryIO) -> None:
    if copy_file(source, file.size, sink=target.write, advance=advance) != file.sha256:
        raise ArtifactError(
            f"{source} changed while it was copied",
            causes=("somebody writes to the bundle", "the disk that it is read from is damaged"),
            next_step="install again from a copy that nobody changes",
        )
