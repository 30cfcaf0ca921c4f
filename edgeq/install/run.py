"""Install a bundle, go back to the one before, and remove what is old."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from edgeq.bundle.needs import DeviceFacts
from edgeq.bundle.verify import Trust
from edgeq.errors import ArtifactError, EdgeqError, GateError, InputError, first_line
from edgeq.install.intake import Report, take_in
from edgeq.install.records import mark_failed, read_records
from edgeq.install.states import State, enter, go_back, read_state
from edgeq.install.store import Store, locked
from edgeq.install.sweep import recover, sweep
from edgeq.install.versions import damage, withdraw

__all__ = ["Installed", "Pruned", "Switched", "install", "prune", "rollback"]

Check = Callable[[Path], None]
"""Raises where the version in this directory does not do what it should."""


class Installed(BaseModel):
    """A version that is in use now.

    Attributes:
        id: SHA-256 of its manifest, in hexadecimal.
        path: its directory, a bundle.
        previous: id of the version to go back to; None where there is none.
        signed_by: id of the key whose signature was checked; None where none was asked for.
        checked: whether it passed a check here.
        files, bytes: of the version, manifest and signature included.
        new_files, new_bytes: those of them that the store did not have.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal["edgeq.install/1"] = "edgeq.install/1"
    id: str
    path: Path
    previous: str | None
    signed_by: str | None
    checked: bool
    files: int
    bytes: int
    new_files: int
    new_bytes: int


class Switched(BaseModel):
    """What is in use after a rollback, and what a second one would bring back; ids."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal["edgeq.rollback/1"] = "edgeq.rollback/1"
    current: str
    previous: str | None


class Pruned(BaseModel):
    """What was removed: ids of versions, and the bytes of files that no other version has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal["edgeq.prune/1"] = "edgeq.prune/1"
    removed: tuple[str, ...]
    freed_bytes: int


def install(
    file_or_directory: Path,
    root: Path,
    *,
    keys: Sequence[Path] = (),
    device: DeviceFacts | None = None,
    check: Check | None = None,
    report: Report | None = None,
) -> Installed:
    """Put a bundle into a store, switch to it, check it, and switch back if the check fails.

    What an install before left when it was killed is undone first. Whatever happens, and whenever: the current version
    is whole, and is the one from before or the new one.

    Args:
        file_or_directory: a transport file, or a bundle's directory, on any file system.
        root: of the store; made where it is missing.
        keys: files of public keys; the bundle must be signed by one of them. Without any, signatures are not looked at.
        device: what the bundle must suit; None for any.
        check: given the version's directory once it is current; what it raises is why the version fails.
        report: of progress.

    Raises:
        BundleError: the bundle is refused; nothing is left of it.
        GateError: the check failed. The version before is current again, the failed one is kept, marked.
        OutputError: the disk is full or fails, or another process changes the store. Nothing is switched.
    """
    with locked(root, make=True) as store:
        recover(store)
        taken = take_in(store, Path(file_or_directory), Trust.of(keys, device=device), report)
        before = read_state(store)
        previous = before.previous if before.current == taken.id else before.current
        trial = enter(store, taken.id, previous, back=before if check else None)
        if check:
            _prove(store, trial, check)
    return Installed(
        id=taken.id,
        path=store.version(taken.id),
        previous=previous,
        signed_by=taken.signed_by,
        checked=check is not None,
        files=len(taken.files),
        bytes=sum(file.size for file in taken.files),
        new_files=len(taken.new),
        new_bytes=sum(file.size for file in taken.new),
    )


def rollback(root: Path) -> Switched:
    """Switch to the previous version, which is read and compared first; what was current becomes previous.

    Where an install died during its check, the version before it is current again, and nothing more is done.

    Raises:
        InputError: there is no previous version.
        ArtifactError: nothing is installed, or the previous version is damaged.
        OutputError: another process changes the store, or the disk fails.
    """
    with locked(root) as store:
        undone = recover(store)
        state = read_state(store)
        if not undone or state.current is None:
            state = enter(store, _whole_previous(store, state), state.current)
    assert state.current is not None
    return Switched(current=state.current, previous=state.previous)


def prune(root: Path, keep: int) -> Pruned:
    """Remove versions: all but the current one, the previous one, and the newest `keep` that did not fail.

    Raises:
        ArtifactError: nothing is installed.
        OutputError: another process changes the store, or the disk fails.
    """
    with locked(root) as store:
        recover(store)
        state, records = read_state(store), read_records(store)
        good = [record.id for record in records if not record.failed]
        kept = {state.current, state.previous, *good[:keep]}
        removed = tuple(record.id for record in records if record.id not in kept)
        for identity in removed:
            withdraw(store, identity)
        freed = sweep(store)
    return Pruned(removed=removed, freed_bytes=freed)


def _prove(store: Store, trial: State, check: Check) -> None:
    """Check the version on trial: the trial ends, or the state before counts again."""
    assert trial.current is not None
    try:
        check(store.version(trial.current))
    except BaseException as error:
        try:
            mark_failed(store, trial.current, _reason(error))
        finally:
            before = go_back(store, trial)
        if isinstance(error, Exception):
            raise _failed(trial.current, before, error) from error
        raise
    enter(store, trial.current, trial.previous)


def _reason(error: BaseException) -> str:
    """Why a version failed, in a line that can be kept."""
    if isinstance(error, EdgeqError):
        return f"{error.what} ({error.causes[0]})" if error.causes else error.what
    if isinstance(error, Exception):
        return f"{type(error).__name__}: {first_line(error)}"
    return "its check was stopped"


def _failed(identity: str, now: State, error: Exception) -> GateError:
    if now.current == identity:
        outcome = "it was in use before, and still is"
    else:
        outcome = f"{now.current[:12]} is in use again" if now.current else "no version is in use"
    told = error if isinstance(error, EdgeqError) else EdgeqError(_reason(error))
    return GateError(
        f"version {identity[:12]} failed its check, {outcome}: {told.what}",
        expected=told.expected,
        causes=told.causes,
        next_step="edgeq list shows it as failed; edgeq prune removes it",
    )


def _whole_previous(store: Store, state: State) -> str:
    """The version to go back to, if there is one and it can be used."""
    if state.previous is None:
        raise InputError("there is no previous version to go back to", next_step="edgeq install BUNDLE")
    wrong = damage(store, state.previous)
    if wrong:
        raise ArtifactError(
            f"the previous version {state.previous[:12]} is damaged: {wrong}",
            causes=("the disk fails", "somebody wrote into the store"),
            next_step="install that version again, which mends it",
        )
    return state.previous
