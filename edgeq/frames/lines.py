"""A file of JSON lines that grows: each line is there whole or not at all."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from types import TracebackType
from typing import Final

from edgeq.errors import OutputError

__all__ = ["LineFile"]

_SYNC_S: Final = 1.0
_TAIL: Final = 16 << 20


class LineFile:
    """Lines are added at the end of a file, which is made where it is not there.

    A line that the disk has no room for is taken back. One that a power cut left half is cut off when the file is
    opened again; only a file whose first line begins as these lines do is touched at all.

    Args:
        path: of the file.
        begins: the text that every line begins with.

    Raises:
        OutputError: it cannot be opened, or holds something else.
    """

    def __init__(self, path: Path, begins: str) -> None:
        self._path = path
        self._synced = time.monotonic()
        try:
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
        except OSError as error:
            raise self._error(error) from error
        try:
            self._mend(begins.encode())
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> LineFile:
        """The file itself; it is closed at the end."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def write(self, text: str) -> None:
        """Add a line, and bring it to the disk within a second of lines.

        Args:
            text: without a line feed.

        Raises:
            OutputError: the disk is full, or fails; nothing of the line is left.
        """
        line = text.encode() + b"\n"
        before = os.fstat(self._file).st_size
        try:
            if os.write(self._file, line) != len(line):
                os.ftruncate(self._file, before)
                raise OSError(28, os.strerror(28))
            if time.monotonic() - self._synced >= _SYNC_S:
                os.fdatasync(self._file)
                self._synced = time.monotonic()
        except OSError as error:
            raise self._error(error) from error

    def close(self) -> None:
        """Bring all to the disk; a second time does nothing."""
        if self._file < 0:
            return
        try:
            os.fdatasync(self._file)
        except OSError as error:
            raise self._error(error) from error
        finally:
            os.close(self._file)
            self._file = -1

    def _mend(self, begins: bytes) -> None:
        """Cut off half a line at the end; raise OutputError where the file is another one."""
        status = os.fstat(self._file)
        if not stat.S_ISREG(status.st_mode):
            raise OutputError(f"{self._path} is no plain file", expected="a file to make, or one of such lines")
        if not status.st_size:
            return
        head = os.pread(self._file, len(begins), 0)
        if head != begins[: len(head)]:
            raise OutputError(f"{self._path} exists already, and holds something else", next_step="choose another name")
        tail = os.pread(self._file, _TAIL, max(status.st_size - _TAIL, 0))
        if not tail.endswith(b"\n"):
            os.ftruncate(self._file, status.st_size - (len(tail) - tail.rfind(b"\n") - 1))

    def _error(self, error: OSError) -> OutputError:
        return OutputError(f"{self._path} cannot be written: {error.strerror or error}")
