"""How much of a file is in the page cache, by mincore."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import pytest

__all__ = ["into_cache", "pages_of", "resident"]


def pages_of(path: Path) -> int:
    """Pages that a file has."""
    return -(-path.stat().st_size // mmap.PAGESIZE)


def resident(path: Path) -> int:
    """Pages of it that are in memory. Looking maps the file, which brings none in."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED) as mapped:
        found = (ctypes.c_ubyte * pages_of(path))()
        start = ctypes.c_char.from_buffer(mapped)
        failed = ctypes.CDLL(None, use_errno=True).mincore(ctypes.byref(start), ctypes.c_size_t(len(mapped)), found)
        del start
        assert not failed, os.strerror(ctypes.get_errno())
        return sum(page & 1 for page in found)


def into_cache(path: Path) -> None:
    """Write a file to the disk and read all of it, as a check of a bundle does. Skips where there is no page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        while file.read(1 << 20):
            pass
    if resident(path) < pages_of(path):
        pytest.skip("this file system does not tell what is in memory")
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if resident(path):
        pytest.skip("files of this file system are in memory for good")
    path.read_bytes()
