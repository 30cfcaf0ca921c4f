"""Whether a bundle's files are still those that were checked, without reading them all a second time.

Between the check of a file and its use by a library that opens it by name, somebody may change it. The kernel sets a
file's ctime whenever its bytes, its names or its mode change, and nobody can set it back: so a file that has the same
inode, size, mtime and ctime as before was not changed, and neither was a directory which has. That costs a look at each
name. Read again are small files, those that were changed so shortly before the first look that the clock of the file
system could not tell, and those of several names whose ctime alone changed (`edgeq install` and `prune` link and unlink
files that versions of a store share).
"""

from __future__ import annotations

import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Snapshot"]

_SMALL_BYTES: Final = 4 << 20
"""Read again in any case: all but weights and graphs."""

_RACY_NS: Final = 2_000_000_000
"""The coarsest file systems keep times to two seconds."""


@dataclass(frozen=True)
class _Place:
    """What the kernel knows of a name."""

    device: int
    inode: int
    size: int
    mtime: int
    ctime: int
    names: int
    directory: bool

    @classmethod
    def of(cls, path: Path) -> _Place:
        it = path.lstat()
        directory = stat.S_ISDIR(it.st_mode)
        size = 0 if directory else it.st_size
        return cls(it.st_dev, it.st_ino, size, it.st_mtime_ns, it.st_ctime_ns, it.st_nlink, directory)

    def may_be(self, other: _Place) -> bool:
        """Whether nothing but names of the file elsewhere came or went; a store's files have several."""
        ours = (self.device, self.inode, self.size, self.mtime, self.directory)
        theirs = (other.device, other.inode, other.size, other.mtime, other.directory)
        return ours == theirs and (self.ctime == other.ctime or (self._is_linked(other) and not self.directory))

    def _is_linked(self, other: _Place) -> bool:
        return self.names > 1 or other.names > 1


@dataclass(frozen=True)
class Snapshot:
    """What lay below a directory at one moment, itself included.

    Attributes:
        taken: the moment, in nanoseconds since 1970 by this machine's clock.
        places: by name below the directory; hidden ones, which no bundle has, are left out.
    """

    taken: int
    places: dict[str, _Place]

    @classmethod
    def of(cls, directory: Path) -> Snapshot:
        """Look at every name; links are not followed, and a directory that cannot be read is passed over."""
        taken, places = time.time_ns(), dict[str, _Place]()
        try:
            places[""] = _Place.of(directory.resolve())
            waiting = [""]
            while waiting:
                above = waiting.pop()
                for path in (directory / above).iterdir():
                    if path.name.startswith("."):
                        continue
                    places[above + path.name] = _Place.of(path)
                    if places[above + path.name].directory:
                        waiting.append(f"{above}{path.name}/")
        except OSError:  # what is wrong with it, the verification tells
            pass
        return cls(taken, places)

    def changed(self, directory: Path, same: Callable[[str], bool]) -> str | None:
        """The first name below a directory that is not what it was; None where all are.

        Args:
            directory: that the snapshot is of.
            same: reads a file and tells whether it has the bytes that were checked.
        """
        now = Snapshot.of(directory)
        for name in sorted({*self.places, *now.places}):
            before, after = self.places.get(name), now.places.get(name)
            if before is None or after is None or not before.may_be(after):
                return name or str(directory)
            if not before.directory and self._is_unsure(before, after) and not same(name):
                return name
        return None

    def _is_unsure(self, before: _Place, after: _Place) -> bool:
        return before.size <= _SMALL_BYTES or before.ctime != after.ctime or abs(self.taken - before.ctime) < _RACY_NS
