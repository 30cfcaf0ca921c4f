"""What is known of an installed version beside its files."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from edgeq.artifact import Artifact
from edgeq.errors import ArtifactError
from edgeq.install.store import Store, is_id

__all__ = ["Record", "mark_failed", "read_record", "read_records", "write_record"]


class Record(Artifact):
    """One version.

    Attributes:
        id: SHA-256 of its manifest, in hexadecimal.
        number: above that of every version installed before; a device's clock may be wrong, this is not.
        installed: when, by the device's clock, ISO 8601 in UTC.
        source: what it was installed from.
        signed_by: id of the key whose signature was checked; None where none was asked for.
        failed: why it is not to be used; empty where nothing was found.
        because: why it was taken though it was older, expired or not signed; empty for all others.
    """

    otherwise: ClassVar[str] = "is not the record of an installed version"
    made_by: ClassVar[str] = "edgeq install"

    version: Literal["edgeq.installed/1"] = "edgeq.installed/1"
    id: str
    number: int = 0
    installed: str = ""
    source: str = ""
    signed_by: str | None = None
    failed: str = ""
    because: str = ""


def write_record(store: Store, record: Record) -> None:
    """Write or replace the record of a version.

    Raises:
        OutputError: it cannot be written.
    """
    record.save(_path(store, record.id))


def mark_failed(store: Store, identity: str, reason: str) -> None:
    """Note why a version is not to be used; a reason that is there already is kept.

    Args:
        store: that has the version.
        identity: of the version.
        reason: for people.
    """
    record = read_record(store, identity)
    if not record.failed:
        write_record(store, record.model_copy(update={"failed": reason}))


def read_records(store: Store) -> tuple[Record, ...]:
    """A record for every version, the newest first; may be called without the lock."""
    records = [read_record(store, path.name) for path in store.versions.iterdir() if is_id(path.name)]
    return tuple(sorted(records, key=lambda record: (-record.number, record.id)))


def read_record(store: Store, identity: str) -> Record:
    """The record of a version; an empty one where it cannot be read, since that is no reason to refuse the version."""
    try:
        return Record.load(_path(store, identity))
    except ArtifactError:
        return Record(id=identity)


def _path(store: Store, identity: str) -> Path:
    return store.records / f"{identity}.json"
