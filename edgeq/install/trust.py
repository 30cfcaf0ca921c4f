"""What a store remembers of whom to trust: keys, revoked keys, and the highest release of each product it has seen.

    ROOT/trust.json      keys that were given with --key, keys revoked here, the highest sequences, the history's end
    ROOT/keys.json       the newest list of keys that root keys signed; where there is one, it says which keys count
    ROOT/history.jsonl   who did what, when

A bundle is admitted if one of today's keys signed it, and if no newer release of its product was installed before.
Sequences signed by a key that is not trusted any more do not count: anyone who stole a key could have signed the
highest number there is, and no bundle could be installed again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from edgeq.artifact import Artifact
from edgeq.bundle.contents import Manifest
from edgeq.bundle.errors import BundleError, ExpiredError, ReleaseError, RevokedKeyError, UnknownKeyError, UnsignedError
from edgeq.bundle.key_list import KeyList, ListedKey, RevokedKey, accepted, check_first, load_list
from edgeq.bundle.keys import PublicKey, load_public
from edgeq.bundle.limits import DEFAULT_LIMITS
from edgeq.bundle.manifest_signature import check_signature
from edgeq.bundle.needs import DeviceFacts
from edgeq.bundle.release import Moment, parse_moment
from edgeq.bundle.verify import Trust, Verified, read_head
from edgeq.errors import ArtifactError, InputError, shell_word
from edgeq.install.history import HISTORY, Act, Entry, Head, append, read_history
from edgeq.install.records import read_record, read_records
from edgeq.install.states import read_state
from edgeq.install.store import MARKER, Store, locked, open_store, refuse_writable

__all__ = [
    "ALLOW",
    "Highest",
    "Memory",
    "TrustReport",
    "admit",
    "check_version",
    "note",
    "read_memory",
    "refused_now",
    "remember",
    "revoke_key",
    "show_trust",
    "take_list",
    "trust_at",
    "trust_for",
]

_MEMORY: Final = "trust.json"
_LIST: Final = "keys.json"

ALLOW: Final = "--allow-older --because TEXT"


class Highest(BaseModel):
    """The highest release of a product that was installed, of those that a key signed; None: that nobody checked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    product: str
    key: str | None
    sequence: int
    id: str
    made: Moment


class Memory(Artifact):
    """`trust.json`.

    Attributes:
        keys: that were given with --key when something was installed.
        revoked: keys that must not be trusted any more, by what a person said here.
        highest: one for each product and key.
        head: the end of the history.
    """

    otherwise: ClassVar[str] = "does not say whom this store trusts"
    made_by: ClassVar[str] = "edgeq install"

    version: Literal["edgeq.trust/1"] = "edgeq.trust/1"
    keys: tuple[ListedKey, ...] = ()
    revoked: tuple[RevokedKey, ...] = ()
    highest: tuple[Highest, ...] = ()
    head: Head = Field(default_factory=Head)


class TrustReport(BaseModel):
    """Whom a store trusts today, for people and for machines.

    Attributes:
        keys: that count today, and what they are called.
        list: the number of the list of keys; None where there is none.
        roots, threshold: root keys of that list, and how many of them must sign the next one.
        revoked: key -> why.
        highest: the highest releases.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal["edgeq.trust-report/1"] = "edgeq.trust-report/1"
    keys: dict[str, str]
    list: int | None
    roots: dict[str, str]
    threshold: int | None
    revoked: dict[str, str]
    highest: tuple[Highest, ...]


@dataclass(frozen=True)
class _Known:
    """All that a store knows."""

    memory: Memory
    listed: KeyList | None

    @property
    def revoked(self) -> dict[str, str]:
        listed = self.listed.revoked if self.listed else ()
        return {key.id: key.because for key in (*listed, *self.memory.revoked)}

    @property
    def today(self) -> tuple[ListedKey, ...]:
        keys = self.listed.keys if self.listed else self.memory.keys
        return tuple(key for key in keys if key.id not in self.revoked)


def read_memory(store: Store) -> Memory:
    """What a store remembers; nothing where it is new, or was made by an edgeq that remembered nothing.

    Raises:
        ArtifactError: it is damaged, or was removed.
    """
    path = store.root / _MEMORY
    if os.path.lexists(path):
        return Memory.load(path)
    if (store.root / HISTORY).exists():
        raise ArtifactError(
            f"{path} is missing, and {store.root / HISTORY} is there",
            causes=("somebody removed it, so that the store forgets whom it trusts",),
            next_step="bring it back, or install into another --root",
        )
    return Memory()


def _known(store: Store) -> _Known:
    path = store.root / _LIST
    return _Known(read_memory(store), load_list(path).keys if os.path.lexists(path) else None)


def note(
    store: Store,
    did: Act,
    identity: str,
    *,
    manifest: Manifest | None = None,
    signed_by: str | None = None,
    because: str = "",
) -> None:
    """Write a line into the history, and its end into the memory; the lock must be held.

    Args:
        store: that something is done to.
        did, identity, signed_by, because: as in `Entry`.
        manifest: of the version, whose release is noted.
    """
    memory = read_memory(store)
    if not (store.root / _MEMORY).exists():
        memory.save(store.root / _MEMORY)  # first: a history without it would be one that somebody took it from
    product, sequence = (None, None) if manifest is None else (manifest.product, manifest.sequence)
    entry = Entry(did=did, id=identity, product=product, sequence=sequence, signed_by=signed_by, because=because)
    head = append(store, entry)
    memory.model_copy(update={"head": head}).save(store.root / _MEMORY)


def trust_for(
    store: Store,
    given: Sequence[PublicKey],
    *,
    device: DeviceFacts | None = None,
    unsigned: bool = False,
    coming: bool = False,
) -> Trust:
    """What a bundle must satisfy to come into a store, or to be used from it.

    Args:
        store: that knows some keys, or none.
        given: keys that a person named. Beside a list of keys they narrow it; without one they stand for themselves.
        device: that the bundle must suit; None for any.
        unsigned: a bundle without a signature is taken although others had one, since a person said why.
        coming: it is not in the store yet. Stores of before remember no key, but that signatures were checked.

    Raises:
        UnknownKeyError: none of the keys that were given is on the list of keys.
        RevokedKeyError: all of them are revoked.
    """
    known = _known(store)
    revoked = known.revoked
    today = {key.id: key.key for key in known.today}
    if not given:
        signed = bool(today or known.memory.keys or known.listed or revoked)
        signed = signed or (coming and any(it.signed_by for it in read_records(store)))
        return Trust(tuple(today.values()), signed and not unsigned, device, revoked=revoked)
    keys = tuple(key for key in given if (key.id in today if known.listed else key.id not in revoked))
    for key in given:
        if not keys and key.id in revoked:
            raise RevokedKeyError(
                f"the key {key.id} is revoked: {revoked[key.id]}", next_step="give a key of today, or no --key"
            )
    if not keys:
        raise UnknownKeyError(
            f"{', '.join(key.id for key in given)} is not on the list of keys of {store.root}",
            expected=f"one of {', '.join(today) or 'none: the list has no key that signs bundles'}",
            next_step=f"edgeq trust set LIST --root {shell_word(store.root)}, with a list that has it",
        )
    return Trust(keys, True, device, revoked=revoked)


def trust_at(place: Path, bundle: Path, keys: Sequence[str | Path], *, device: DeviceFacts | None = None) -> Trust:
    """What a bundle must satisfy to be used: of one in a store, that is what the store knows today.

    Args:
        place: that it was found at: itself, or a store.
        bundle: its directory.
        keys: files of public keys.
        device: that it must suit; None for any.

    Raises:
        BundleError: a file holds no key, or the keys are not trusted any more.
        ArtifactError: what the store knows is damaged.
    """
    given = tuple(load_public(Path(key)) for key in keys)
    root = place if (place / MARKER).is_file() else bundle.resolve().parent.parent
    if not (root / MARKER).is_file():
        return Trust(given, bool(given), device)
    store = Store(root.resolve())
    if os.path.lexists(store.root / _MEMORY):
        refuse_writable(store)
    return trust_for(store, given, device=device, unsigned=_is_allowed(store, bundle.resolve().name))


def _is_allowed(store: Store, identity: str) -> bool:
    """Whether a version came without a checked signature, since a person said why."""
    record = read_record(store, identity)
    return bool(record.because) and record.signed_by is None


def admit(store: Store, verified: Verified, current: str | None, *, because: str) -> tuple[str, ...]:
    """Refuse what is older than what was installed before; give sentences that a person should know.

    Args:
        store: that it is to come into; the lock must be held.
        verified: a bundle whose signature was checked, or need not be.
        current: id of the version in use.
        because: why an older one is taken; empty where nobody said so.

    Raises:
        ExpiredError: its time is over.
        ReleaseError: a newer one was installed before, or it does not say which it is, and others did.
    """
    known = _known(store)
    fault = None if verified.digest == current else _fault(known, verified)
    if fault is not None and not because:
        raise fault
    return tuple(_words(store, known, verified, fault))


def _words(store: Store, known: _Known, verified: Verified, fault: ReleaseError | None) -> list[str]:
    manifest, words = verified.manifest, []
    if fault is not None:
        words.append(f"{fault.what}; it was allowed.")
    elif manifest.release is None:
        words.append(
            "The bundle says no product and sequence: whether it is newer than what was installed before cannot be "
            "told. edgeq sign --product NAME gives it both."
        )
    others = {each.product for each in known.memory.highest} - {manifest.product}
    if manifest.product is not None and others and all(it.product != manifest.product for it in known.memory.highest):
        words.append(f"It is the first of the product {manifest.product}; before: {', '.join(sorted(others))}.")
    damage = read_history(store, known.memory.head)[1]
    if damage:
        words.append(f"The history of {store.root} is damaged: {damage}. edgeq trust log shows it.")
    return words


def _fault(known: _Known, verified: Verified) -> ReleaseError | None:
    """Why a bundle is not to be installed, by its release."""
    release = verified.manifest.release
    trusted = {None} if verified.signed_by is None else set[str | None]()
    trusted |= {key.id for key in known.today} | {verified.signed_by}
    highest = [each for each in known.memory.highest if each.key in trusted]
    if release is None:
        if not highest:
            return None
        return ReleaseError(
            "the bundle says no product and sequence, and one that did was installed before",
            expected="a release above " + " and ".join(f"{it.product} {it.sequence}" for it in highest),
            causes=("it is older, from before releases were numbered", "it was signed without --product"),
            next_step=f"edgeq sign BUNDLE --key KEY --product NAME; or {ALLOW}",
        )
    signed = [parse_moment(each.made) for each in highest if each.key is not None]
    now = max([datetime.now(timezone.utc), *signed])  # a clock that is before what was signed is wrong
    if release.expires is not None and parse_moment(release.expires) <= now:
        return ExpiredError(
            f"release {release.sequence} of {release.product} expired at {release.expires}",
            causes=("it is old", f"the clock of this device is wrong: it says {now:%Y-%m-%d %H:%M}"),
            next_step=f"install a newer one; or {ALLOW}",
        )
    same = [each for each in highest if each.product == release.product]
    top = max(same, key=lambda each: each.sequence, default=None)
    if top is None or (release.sequence, verified.digest) == (top.sequence, top.id) or release.sequence > top.sequence:
        return None
    what = "is older than" if release.sequence < top.sequence else "has the number of another bundle,"
    return ReleaseError(
        f"release {release.sequence} of {release.product} {what} release {top.sequence}, which was installed before",
        expected=f"a sequence above {top.sequence}",
        causes=("it is an old bundle, perhaps with a fault that was mended since", "--sequence was given too low"),
        next_step=f"install the newest one; edgeq rollback goes back to the version before; or {ALLOW}",
    )


def remember(
    store: Store, manifest: Manifest, identity: str, signed_by: str | None, given: Sequence[PublicKey]
) -> None:
    """Note what an install brought: keys that were given, and the highest release; the lock must be held.

    It is called when the version has passed its check and before that counts, so that no interruption leaves a version
    in use that the store does not remember.

    Args:
        store: that has the version.
        manifest: of the version.
        identity: of the version.
        signed_by: id of the key whose signature was checked; None where none was.
        given: keys that a person named.
    """
    memory = read_memory(store)
    keys = {key.id: key for key in memory.keys} | {key.id: ListedKey.of(key) for key in given}
    gone = {key.id for key in memory.revoked}
    highest = {(each.product, each.key): each for each in memory.highest}
    release = manifest.release
    if release is not None:
        place = (release.product, signed_by)
        new = Highest(product=release.product, key=signed_by, sequence=release.sequence, id=identity, made=release.made)
        if place not in highest or highest[place].sequence < new.sequence:
            highest[place] = new
    found = memory.model_copy(
        update={
            "keys": tuple(key for key in keys.values() if key.id not in gone),
            "highest": tuple(highest.values()),
        }
    )
    if found != memory:
        found.save(store.root / _MEMORY)


def check_version(store: Store, identity: str, *, because: str = "") -> str | None:
    """Refuse a version that is in a store and would not be taken by today's keys; give the id of its key.

    Args:
        store: that has it, whole.
        identity: of the version.
        because: why one without a signature is taken; empty where nobody said so.

    Raises:
        SignatureError: it is unsigned, or signed by a key that is not trusted today.
    """
    trust = trust_for(store, (), unsigned=bool(because) or _is_allowed(store, identity))
    where = f"version {identity[:12]}"
    listed, seal = read_head(store.version(identity), DEFAULT_LIMITS)
    if seal is not None and (trust.keys or trust.revoked):
        return check_signature(seal, listed.raw, trust.keys, where, trust.revoked)
    if trust.required:
        raise UnsignedError(
            f"{where} is not signed, and others in {store.root} are",
            expected="a signature by a key that is trusted today",
            next_step=f"install a signed one; or {ALLOW}",
        )
    return None


def take_list(file: Path, root: Path, roots: Sequence[Path] = ()) -> KeyList:
    """Take a list of keys into a store, where it says from then on which keys count.

    Args:
        file: signed by root keys.
        root: of the store; made where it is missing.
        roots: files of public root keys; for the first list, as many as must sign it. Later ones are checked with those
            of the list before.

    Raises:
        KeyListError: it is no list, older than the one that is known, or not signed by enough root keys.
        InputError: no root key was named for the first list.
        OutputError: it cannot be written.
    """
    signed, given = load_list(file), [load_public(path) for path in roots]
    with locked(root, make=True) as store:
        before = _known(store).listed
        if before is not None:
            keys = accepted(signed, before, str(file))
        elif not given:
            raise InputError(
                f"{store.root} knows no list of keys yet",
                expected="the root keys that its first list is signed with",
                next_step=f"edgeq trust set {shell_word(file)} --root {shell_word(store.root)} "
                "--root-key ROOT.public.pem",
            )
        else:
            keys = check_first(signed, given, str(file))
        if keys != before:
            note(store, "keys", str(keys.number))
            signed.save(store.root / _LIST)
    return keys


def revoke_key(root: Path, identity: str, because: str) -> None:
    """Trust a key no more in one store, whatever its list of keys says.

    Args:
        root: of the store.
        identity: of the key, 16 digits.
        because: for people.

    Raises:
        InputError: it is no id of a key, or no reason was given.
        OutputError: it cannot be written.
    """
    try:
        gone = RevokedKey(id=identity, because=because)
    except ValueError as error:
        raise InputError(
            f"{identity!r:.60} cannot be revoked", expected="the id of a key, 16 hexadecimal digits, and a reason"
        ) from error
    with locked(root) as store:
        note(store, "revoke", identity, because=because)
        memory = read_memory(store)
        revoked = {**{key.id: key for key in memory.revoked}, gone.id: gone}
        kept = tuple(key for key in memory.keys if key.id != identity)
        memory.model_copy(update={"keys": kept, "revoked": tuple(revoked.values())}).save(store.root / _MEMORY)


def refused_now(root: Path) -> str:
    """Why the version in use would not be started any more, by today's keys; empty where it would, or there is none."""
    store = open_store(root)
    state = read_state(store)
    try:
        if state.current is not None:
            check_version(store, state.current)
    except BundleError as error:
        return error.what
    return ""


def show_trust(root: Path) -> TrustReport:
    """Whom a store trusts today; no lock is needed.

    Raises:
        ArtifactError: there is none, or what it knows is damaged.
    """
    known = _known(open_store(root))
    listed = known.listed
    return TrustReport(
        keys={key.id: key.name for key in known.today},
        list=listed.number if listed else None,
        roots={key.id: key.name for key in listed.roots} if listed else {},
        threshold=listed.threshold if listed else None,
        revoked=known.revoked,
        highest=known.memory.highest,
    )
