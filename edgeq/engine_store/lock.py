"""One process at a time, by a lock that dies with the process that holds it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeq.errors import OutputError

__all__ = ["is_free", "locked"]


@contextmanager
def locked(path: Path, *, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock of the file at `path` until the block ends.

    It is flock(2): the kernel lets go of it when the process ends, however that comes about, so the file that is left
    blocks nobody. It stays: removing it would part those who wait for it from those who come later.

    Args:
        path: made where it is missing, with its directories; it stays empty.
        waiting: called once, before the wait, where another holds it.

    Raises:
        OutputError: the file cannot be made.
    """
    descriptor = _open(path)
    try:
        if not _take(descriptor):
            if waiting:
                waiting()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def is_free(path: Path) -> Iterator[bool]:
    """Whether nobody held the lock; where that is so, it is held until the block ends.

    Raises:
        OutputError: the file cannot be made.
    """
    descriptor = _open(path)
    try:
        yield _take(descriptor)
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be made: {error.strerror or error}",
            expected="a store that this user may write to",
            next_step="choose another one with --store",
        ) from error


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
