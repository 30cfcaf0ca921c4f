"""Where everything is in a store, and who may change it."""

from __future__ import annotations

import errno
import os
import stat
import string
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal

from edgeq.artifact import Artifact
from edgeq.engine_store.lock import is_free
from edgeq.errors import ArtifactError, OutputError, shell_word

__all__ = ["ENGINES", "MARKER", "ROOT", "Store", "is_id", "locked", "open_store", "refuse_writable", "sync_directory"]

ROOT: Final = Path("/var/lib/edgeq")
"""The store of a device."""

MARKER: Final = "store.json"
"""The file that says that a directory is a store."""

ENGINES: Final = "engines"
"""Directory of the engines that are built of its versions; TensorRT's."""

_LOCK: Final = "lock"
_DIRECTORIES: Final = ("objects", "versions", "records", "states", "staging")
_LINKS: Final = ("current", "previous")
_STATE: Final = "state"
_HEX: Final = frozenset(string.hexdigits.lower())
_ID_DIGITS: Final = 64
_EVERYBODY: Final = stat.S_IWOTH
_DISK_ERRORS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


@dataclass(frozen=True)
class Store:
    """Names in a store.

    Attributes:
        root: absolute, without links.
    """

    root: Path

    @property
    def objects(self) -> Path:
        """Every file once."""
        return self.root / "objects"

    @property
    def versions(self) -> Path:
        """Bundles, by id."""
        return self.root / "versions"

    @property
    def records(self) -> Path:
        """What is known of a version beside its files."""
        return self.root / "records"

    @property
    def states(self) -> Path:
        """Pairs of current and previous, by number."""
        return self.root / "states"

    @property
    def staging(self) -> Path:
        """What is being made, on the same file system as the rest."""
        return self.root / "staging"

    @property
    def state(self) -> Path:
        """The link to the state that counts."""
        return self.root / _STATE

    def object(self, sha256: str) -> Path:
        """The file with these bytes, if it is there."""
        return self.objects / sha256[:2] / sha256

    def version(self, identity: str) -> Path:
        """The directory of a version."""
        return self.versions / identity


class _Marker(Artifact):
    otherwise: ClassVar[str] = "is not the mark of a store that this edgeq can use"
    made_by: ClassVar[str] = "edgeq install"

    version: Literal["edgeq.store/1"] = "edgeq.store/1"


def is_id(name: str) -> bool:
    """Whether a name is a SHA-256 in hexadecimal, as versions have."""
    return len(name) == _ID_DIGITS and set(name) <= _HEX


def open_store(root: Path) -> Store:
    """A store that is there, for reading; no lock is needed.

    Raises:
        ArtifactError: there is none, or it is of another version.
    """
    store = Store(Path(root).resolve())
    if not store.state.is_symlink():  # it is made last
        raise ArtifactError(
            f"nothing is installed in {root}",
            causes=("nothing was installed on this device yet", "it was installed with another --root"),
            next_step=f"edgeq install BUNDLE --root {shell_word(root)}",
        )
    _Marker.load(store.root / MARKER)
    return store


@contextmanager
def locked(root: Path, *, make: bool = False) -> Iterator[Store]:
    """Hold a store for changes until the block ends, or the process.

    Args:
        root: of the store.
        make: make it where it is missing.

    Raises:
        OutputError: another process holds it, or the place cannot be written.
        ArtifactError: there is none; or everybody may write to it; or, with `make`, the directory belongs to something
            else.
    """
    store = Store(Path(root).resolve())
    with ExitStack() as stack:
        stack.callback(os.umask, _narrow_umask())
        if make:
            _refuse_foreign(store.root)
            _make_root(store.root)
        else:
            open_store(root)
        _lock(store, stack)
        refuse_writable(store)
        with _advice(store.root):
            if make:
                _make(store)
            yield store


def sync_directory(directory: Path) -> None:
    """Put the names in a directory on the disk, so that they survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _narrow_umask() -> int:
    """From here on nothing is made that everybody may write to; gives what to set afterwards."""
    before = os.umask(_EVERYBODY)
    os.umask(before | _EVERYBODY)
    return before


def refuse_writable(store: Store) -> None:
    """Raise ArtifactError where everybody may write into a store: what it remembers would be worth nothing."""
    names = ("", ENGINES, *_DIRECTORIES, *(path.name for path in store.root.glob("*.json*")))
    for path in (store.root / name for name in names):
        if os.path.lexists(path) and not path.is_symlink() and path.stat().st_mode & _EVERYBODY:
            raise ArtifactError(
                f"everybody may write to {path}",
                expected="a store that its owner writes to, and perhaps a group",
                causes=("it was made so, or changed since",),
                next_step=f"look what is in it, then chmod -R o-w {shell_word(store.root)}",
            )


def _lock(store: Store, stack: ExitStack) -> None:
    """Take the lock until the stack is closed, or raise OutputError."""
    try:
        free = stack.enter_context(is_free(store.root / _LOCK))
    except OutputError as error:
        raise _not_writable(store.root, error.what) from error
    if not free:
        raise OutputError(
            f"another edgeq is changing {store.root} at this moment",
            expected="one install, rollback or prune at a time",
            next_step="wait until it has ended, then try again",
        )


def _make_root(root: Path) -> None:
    """Make the directory and those above it, and put their names on the disk."""
    missing = [path for path in (root, *root.parents) if not path.exists()]
    try:
        root.mkdir(parents=True, exist_ok=True)
        for path in missing:
            sync_directory(path.parent)
    except OSError as error:
        raise _not_writable(root, f"{root} cannot be made: {error.strerror or error}") from error


def _make(store: Store) -> None:
    """Make what is missing. The mark comes first: without it, what is in the directory is not ours to sweep."""
    marker = store.root / MARKER
    if marker.exists():
        _Marker.load(marker)
    else:
        _Marker().save(marker)
    for name in _DIRECTORIES:
        (store.root / name).mkdir(exist_ok=True)
    for name in _LINKS:
        if not (store.root / name).is_symlink():
            (store.root / name).symlink_to(f"{_STATE}/{name}")
    if not store.state.is_symlink():
        (store.states / "0").mkdir(exist_ok=True)
        sync_directory(store.states)
        store.state.symlink_to("states/0")
    sync_directory(store.root)


def _refuse_foreign(root: Path) -> None:
    """Raise ArtifactError where the directory holds something under a name that a store needs, and is none."""
    there = [name for name in (*_DIRECTORIES, *_LINKS, _STATE) if os.path.lexists(root / name)]
    if there and not (root / MARKER).exists():  # looked at last: another process may be making it, mark first
        raise ArtifactError(
            f"{root} has a {there[0]!r} that no edgeq has put there",
            expected="a store, or a directory in which one can be made",
            next_step="choose another --root",
        )


@contextmanager
def _advice(root: Path) -> Iterator[None]:
    """What to do about a disk that is full or fails, wherever it was met."""
    advice = f"free some space, as with edgeq prune --keep 0 --root {root}, or choose another --root"
    try:
        yield
    except OutputError as error:
        raise OutputError(error.what, expected=error.expected, next_step=advice) from error
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise OutputError(f"{root} cannot be written: {error.strerror}", next_step=advice) from error


def _not_writable(root: Path, what: str) -> OutputError:
    return OutputError(
        what,
        expected=f"a place that this user may write to, instead of {root}",
        next_step="use sudo, or another --root",
    )
