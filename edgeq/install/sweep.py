"""Clean up after what was killed: undo a switch that was never proved, and remove what nothing refers to."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from edgeq.errors import EdgeqError
from edgeq.install.records import mark_failed
from edgeq.install.states import State, go_back, read_state
from edgeq.install.store import Store, is_id
from edgeq.install.trust import note

__all__ = ["recover", "sweep"]


def recover(store: Store) -> bool:
    """Bring a store into order before it is changed; the lock must be held.

    A version that is on trial although nobody holds the lock was being checked when its process died. Nothing is known
    of it, so the version before is current again.

    Returns:
        Whether there was such a version.
    """
    state = read_state(store)
    interrupted = state.back is not None
    if interrupted:
        if state.current is not None:
            mark_failed(store, state.current, "its check did not come to an end")
        go_back(store, state)
        if state.current is not None:
            with suppress(EdgeqError):  # anyone who cannot write it still has the version before
                note(store, "failed", state.current)
    sweep(store)
    return interrupted


def sweep(store: Store) -> int:
    """Remove what no state and no version refers to; the lock must be held.

    Returns:
        The bytes of the objects that were removed.
    """
    for path in _rubbish(store, read_state(store)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    freed = 0
    for path in list(_unused_objects(store)):
        freed += path.stat().st_size
        path.unlink()
    return freed


def _rubbish(store: Store, state: State) -> Iterator[Path]:
    """Everything but objects; listed before it is removed."""
    kept = {str(state.number), str(state.back)}
    yield from [path for path in store.states.iterdir() if path.name not in kept]
    yield from [path for path in store.versions.iterdir() if not is_id(path.name)]
    yield from [path for path in store.records.iterdir() if not store.version(path.stem).is_dir()]
    yield from [*store.staging.iterdir(), *store.root.glob(".*.json.partial-*")]


def _unused_objects(store: Store) -> Iterator[Path]:
    """Files that are in no version: nothing but the store knows them, so they have one name. Half-written ones, too."""
    for directory in store.objects.iterdir():
        yield from (path for path in directory.iterdir() if path.stat().st_nlink == 1)
