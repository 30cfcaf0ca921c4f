"""Install a bundle, go back to the one before, and remove what is old."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from edgeq.bundle.errors import RevokedKeyError, UnknownKeyError, UnsignedError
from edgeq.bundle.keys import PublicKey, load_public
from edgeq.bundle.needs import DeviceFacts
from edgeq.bundle.verify import Trust, Verified
from edgeq.errors import ArtifactError, EdgeqError, GateError, InputError, first_line
from edgeq.install.intake import Report, Taken, take_in
from edgeq.install.records import mark_failed, read_record, read_records, write_record
from edgeq.install.states import State, enter, go_back, read_state
from edgeq.install.store import Store, locked
from edgeq.install.sweep import recover, sweep
from edgeq.install.trust import ALLOW, admit, check_version, note, remember, trust_for
from edgeq.install.versions import damage, manifest_of, withdraw

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
        product, sequence: which release it is; None where it does not say so.
        notes: what a person should know, in sentences.
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
    product: str | None = None
    sequence: int | None = None
    notes: tuple[str, ...] = ()


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
    because: str = "",
) -> Installed:
    """Put a bundle into a store, switch to it, check it, and switch back if the check fails.

    What an install before left when it was killed is undone first. Whatever happens, and whenever: the current version
    is whole, and is the one from before or the new one.

    Args:
        file_or_directory: a transport file, or a bundle's directory, on any file system.
        root: of the store; made where it is missing.
        keys: files of public keys; the bundle must be signed by one of them, and the store remembers them. Without any,
            it must be signed by one that the store trusts; where it trusts none, signatures are not looked at.
        device: what the bundle must suit; None for any.
        check: given the version's directory once it is current; what it raises is why the version fails.
        report: of progress.
        because: why a bundle is taken that is older than one before, expired, or not signed though others were; empty
            refuses it.

    Raises:
        BundleError: the bundle is refused; nothing is left of it.
        GateError: the check failed. The version before is current again, the failed one is kept, marked.
        OutputError: the disk is full or fails, or another process changes the store. Nothing is switched.
    """
    given, notes = [load_public(key) for key in keys], list[str]()
    with locked(root, make=True) as store:
        recover(store)
        before = read_state(store)

        def allowed(verified: Verified) -> None:
            notes.extend(admit(store, verified, before.current, because=because))

        trust = trust_for(store, given, device=device, unsigned=bool(because), coming=True)
        with _advice(trust, given):
            taken = take_in(store, Path(file_or_directory), trust, report, admit=allowed, because=because)
        previous = before.previous if before.current == taken.id else before.current
        note(store, "install", taken.id, manifest=taken.manifest, signed_by=taken.signed_by, because=because)
        trial = enter(store, taken.id, previous, back=before) if check else None
        if check and trial:
            _prove(store, trial, taken, check)
        try:
            remember(store, taken.manifest, taken.id, taken.signed_by, given)
            enter(store, taken.id, previous)
        except BaseException:
            if trial:
                go_back(store, trial)
            raise
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
        product=taken.manifest.product,
        sequence=taken.manifest.sequence,
        notes=tuple(notes),
    )


@contextmanager
def _advice(trust: Trust, given: Sequence[PublicKey]) -> Iterator[None]:
    """What to do about a bundle without a signature where the store, and not the caller, asks for one."""
    try:
        yield
    except (UnsignedError, UnknownKeyError) as error:
        if given or isinstance(error, RevokedKeyError) or (trust.keys and not isinstance(error, UnsignedError)):
            raise
        raise type(error)(
            error.what,
            expected=error.expected,
            causes=("bundles with a checked signature were installed here before: one without may be anybody's",),
            next_step=f"edgeq sign BUNDLE, and --key NAME.public.pem; or {ALLOW}",
        ) from error


def rollback(root: Path, *, because: str = "") -> Switched:
    """Switch to the previous version, which is read and compared first; what was current becomes previous.

    Its signature must be one of today's keys, where any is known.

    Where an install died during its check, the version before it is current again, and nothing more is done.

    Args:
        root: of the store.
        because: why a version without a signature is taken though others had one; empty refuses it.

    Raises:
        InputError: there is no previous version.
        SignatureError: it is not signed by a key that is trusted today.
        ArtifactError: nothing is installed, or the previous version is damaged.
        OutputError: another process changes the store, or the disk fails.
    """
    with locked(root) as store:
        undone = recover(store)
        state = read_state(store)
        if not undone or state.current is None:
            previous = _whole_previous(store, state)
            signed_by = check_version(store, previous, because=because)
            manifest = manifest_of(store, previous)
            note(store, "rollback", previous, manifest=manifest, signed_by=signed_by, because=because)
            if because and signed_by is None:
                write_record(store, read_record(store, previous).model_copy(update={"because": because}))
            state = enter(store, previous, state.current)
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


def _prove(store: Store, trial: State, taken: Taken, check: Check) -> None:
    """Check the version on trial: it passes, or the state before counts again."""
    assert trial.current is not None
    try:
        check(store.version(trial.current))
    except BaseException as error:
        try:
            mark_failed(store, trial.current, _reason(error))
            note(store, "failed", trial.current, manifest=taken.manifest, signed_by=taken.signed_by)
        finally:
            before = go_back(store, trial)
        if isinstance(error, Exception):
            raise _failed(trial.current, before, error) from error
        raise


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
