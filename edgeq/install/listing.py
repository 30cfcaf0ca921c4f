"""What is installed, for people and for machines."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from edgeq.bundle.contents import Kind
from edgeq.install.records import Record, read_records
from edgeq.install.states import State, read_state
from edgeq.install.store import Store, open_store
from edgeq.install.versions import damage, manifest_of

__all__ = ["Use", "Version", "installed"]

Use = Literal["current", "trial", "previous", "failed", "kept"]


class Version(BaseModel):
    """One installed version.

    Attributes:
        id: SHA-256 of its manifest, in hexadecimal.
        use: `trial` is current while its check runs, or since that was killed; `failed` and `kept` are not in use.
        path: its directory, a bundle.
        kind, made_by: as in its manifest; None where that cannot be read.
        bytes: of the files that the manifest lists; they may be shared with other versions.
        installed: when, by the device's clock, ISO 8601 in UTC; empty where that is not known.
        source: what it was installed from.
        signed_by: id of the key whose signature was checked; None where none was asked for.
        product, sequence: which release it is; None where it does not say so.
        failed: why its check failed; empty where it did not.
        damage: what is wrong with its files; empty where nothing is; None where they were not read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    use: Use
    path: Path
    kind: Kind | None
    made_by: str | None
    bytes: int
    installed: str
    source: str
    signed_by: str | None
    product: str | None = None
    sequence: int | None = None
    failed: str
    damage: str | None


def installed(root: Path, *, check: bool = False) -> tuple[Version, ...]:
    """Every version in a store, the newest first; no lock is needed.

    Args:
        root: of the store.
        check: read every file, and compare it with the manifest.

    Raises:
        ArtifactError: nothing was ever installed there.
    """
    store = open_store(root)
    state = read_state(store)
    return tuple(_version(store, state, record, check) for record in read_records(store))


def _version(store: Store, state: State, record: Record, check: bool) -> Version:
    manifest = manifest_of(store, record.id)
    return Version(
        id=record.id,
        use=_use(state, record),
        path=store.version(record.id),
        kind=manifest.kind if manifest else None,
        made_by=manifest.made_by if manifest else None,
        bytes=manifest.total_bytes if manifest else 0,
        installed=record.installed,
        source=record.source,
        signed_by=record.signed_by,
        product=manifest.product if manifest else None,
        sequence=manifest.sequence if manifest else None,
        failed=record.failed,
        damage=damage(store, record.id) if check else None,
    )


def _use(state: State, record: Record) -> Use:
    if record.id == state.current:
        return "current" if state.back is None else "trial"
    if record.id == state.previous:
        return "previous"
    return "failed" if record.failed else "kept"
