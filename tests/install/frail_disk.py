"""A process that dies at its n-th change to a disk, and what that disk may have forgotten then.

A kernel that dies with the process may lose what was not synced: the bytes of files, and the names in directories. How
much it loses is not known, so there are three disks: one loses nothing (the process was killed, the kernel was not),
one loses the bytes that were not synced but no name, and one loses every name, too, that was not synced.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NoReturn

DIED = 99
"""The exit status of a process that died at the change it was to die at."""

Loss = Literal["nothing", "bytes", "names"]

_CHANGES = ("fsync", "mkdir", "symlink", "link", "rename", "replace", "unlink", "rmdir", "chmod")

_Place = tuple[int, str]
"""The inode of a directory, and a name in it."""

Function = Callable[..., Any]


class FrailDisk:
    """What of a directory is on the disk, as far as fsync(2) promises it.

    Args:
        root: everything below it is on the disk at first.
        loss: what is lost that is not.
    """

    def __init__(self, root: Path, loss: Loss) -> None:
        self._root, self._loss = root, loss
        self._synced = {path.stat().st_ino for path in _files(root)}
        self._names: list[tuple[_Place, _Place | None, bytes | str | None]] = []  # made, moved from, replaced

    def die_at(self, count: int) -> None:
        """Have this process die before it makes its `count`-th change from now on."""
        left = count

        def counted(original: Function, noted: Function) -> Function:
            def call(*arguments: Any, **options: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0:
                    self.cut(DIED)
                return noted(original, *arguments, **options)

            return call

        for name in _CHANGES:
            setattr(os, name, counted(getattr(os, name), getattr(self, f"_{name}", _only)))

    def cut(self, status: int) -> NoReturn:
        """Lose what can be lost, and end the process."""
        for name in _CHANGES:
            setattr(os, name, _ORIGINALS[name])
        if self._loss == "names":
            for made, moved, replaced in reversed(self._names):
                self._forget(made, moved, replaced)
        if self._loss != "nothing":
            for path in _files(self._root):
                if path.stat().st_ino not in self._synced:
                    path.chmod(0o600)
                    os.truncate(path, 0)
        os._exit(status)

    def _forget(self, made: _Place, moved: _Place | None, replaced: bytes | str | None) -> None:
        """Undo one name; what was removed meanwhile stays removed."""
        path = self._path(made)
        if path is None or not os.path.lexists(path):
            return
        source = self._path(moved) if moved else None
        if source is not None:
            path.rename(source)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
        if isinstance(replaced, str):
            path.symlink_to(replaced)
        elif replaced is not None:
            path.write_bytes(replaced)
            self._synced.add(path.stat().st_ino)

    def _path(self, place: _Place) -> Path | None:
        """Where a name is now: its directory may have been moved."""
        for directory, _, _ in os.walk(self._root):
            if Path(directory).stat().st_ino == place[0]:
                return Path(directory, place[1])
        return None

    def _fsync(self, original: Function, descriptor: int) -> None:
        original(descriptor)
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            self._names = [
                entry for entry in self._names if status.st_ino not in (entry[0][0], entry[1][0] if entry[1] else None)
            ]
        else:
            self._synced.add(status.st_ino)

    def _mkdir(self, original: Function, path: Any, *mode: Any) -> None:
        original(path, *mode)
        self._names.append((_place(path), None, None))

    def _symlink(self, original: Function, target: Any, path: Any, *options: Any) -> None:
        original(target, path, *options)
        self._names.append((_place(path), None, None))

    def _link(self, original: Function, target: Any, path: Any) -> None:
        original(target, path)
        self._names.append((_place(path), None, None))

    def _rename(self, original: Function, source: Any, path: Any) -> None:
        replaced = _content(Path(path))
        original(source, path)
        self._names.append((_place(path), _place(source), replaced))

    _replace = _rename


_ORIGINALS = {name: getattr(os, name) for name in _CHANGES}


def _only(original: Function, *arguments: Any, **options: Any) -> Any:
    return original(*arguments, **options)


def _place(path: Any) -> _Place:
    return Path(path).parent.stat().st_ino, Path(path).name


def _content(path: Path) -> bytes | str | None:
    """What a name stood for before it is replaced."""
    if path.is_symlink():
        return str(path.readlink())
    return path.read_bytes() if path.is_file() else None


def _files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
