"""Which version is current and which was before: read from one link, changed by replacing it."""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgeq.errors import ArtifactError, shell_word
from edgeq.files import new_directory
from edgeq.install.records import read_records
from edgeq.install.store import Store, open_store, sync_directory

__all__ = ["State", "current", "enter", "go_back", "next_number", "read_state"]

_CURRENT, _PREVIOUS, _BACK = "current", "previous", "back"
_ATTEMPTS = 10


@dataclass(frozen=True)
class State:
    """A pair of versions.

    Attributes:
        number: its directory's name; 0 is the one that a store begins with, in which nothing is installed.
        current: id of the version in use; None where there is none.
        previous: id of the version to go back to; None where there is none.
        back: the number of the state before, while `current` is on trial; otherwise None.
    """

    number: int
    current: str | None
    previous: str | None
    back: int | None


def current(root: Path) -> Path:
    """The bundle directory of the current version.

    Resolve it once and keep it: two look-ups through ROOT/current may be answered by two versions.

    Raises:
        ArtifactError: there is none.
    """
    store = open_store(root)
    state = read_state(store)
    if state.current is None:
        raise ArtifactError(
            f"no version in {root} is in use",
            causes=("the only one that was installed failed its check: see `edgeq list`",),
            next_step=f"edgeq install BUNDLE --root {shell_word(root)}",
            passing=True,
        )
    return store.version(state.current)


def read_state(store: Store) -> State:
    """The state that counts; may be called without the lock.

    Raises:
        ArtifactError: the link leads nowhere, which no interruption can bring about.
    """
    for _ in range(_ATTEMPTS):
        with suppress(FileNotFoundError, NotADirectoryError, ValueError):
            name = store.state.readlink().name
            state = _read(store.states / name)
            if store.state.readlink().name == name:  # else it was replaced, and perhaps swept away, while we read it
                return state
    raise ArtifactError(
        f"{store.state} leads to no state",
        causes=("somebody changed the store by hand",),
        next_step=f"remove {store.state}, then install again",
    )


def enter(store: Store, current: str | None, previous: str | None, *, back: State | None = None) -> State:
    """Make a state and switch to it; the lock must be held.

    Args:
        store: to switch in.
        current: id of a version that is complete and on the disk.
        previous: likewise, or None.
        back: the state to return to, where the version is on trial.

    Raises:
        OutputError: it cannot be written; then nothing is switched.
    """
    state = State(next_number(store), current, previous, back.number if back else None)
    links = {
        _CURRENT: None if current is None else f"../../versions/{current}",
        _PREVIOUS: None if previous is None else f"../../versions/{previous}",
        _BACK: None if back is None else f"../{back.number}",
    }
    with new_directory(store.states / str(state.number)) as work:
        for name, target in links.items():
            if target is not None:
                (work / name).symlink_to(target)
    _point(store, state.number)
    return state


def go_back(store: Store, trial: State) -> State:
    """Return to the state from before a trial."""
    assert trial.back is not None
    _point(store, trial.back)
    return read_state(store)


def next_number(store: Store) -> int:
    """A number above that of every state and every record that is there."""
    states = [int(path.name) for path in store.states.iterdir() if path.name.isdecimal()]
    return 1 + max((*states, *(record.number for record in read_records(store))), default=0)


def _point(store: Store, number: int) -> None:
    """Replace the link in one step. It is on the disk under another name before it gets its own."""
    temporary = store.staging / secrets.token_hex(8)
    temporary.symlink_to(f"states/{number}")
    sync_directory(store.staging)
    temporary.replace(store.state)
    sync_directory(store.root)


def _read(directory: Path) -> State:
    if not directory.is_dir():
        raise FileNotFoundError(directory)
    back = _target(directory / _BACK)
    return State(
        int(directory.name),
        _target(directory / _CURRENT),
        _target(directory / _PREVIOUS),
        None if back is None else int(back),
    )


def _target(link: Path) -> str | None:
    """The last part of where a link leads; None where there is no link."""
    try:
        return link.readlink().name
    except FileNotFoundError:
        return None
