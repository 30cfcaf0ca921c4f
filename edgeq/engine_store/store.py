"""Where engines are kept on a device: `KEY/engine.plan` and `KEY/engine.json`, the record of what it is. What is left
of a build that did not come out as planned is in `.evidence/KEY`, the last one of each key.

One process at a time builds under a key; others wait and get what it made. An engine appears under its key complete or
not at all. What a killed build leaves is a hidden directory `.KEY.partial-...` that the next build, of whatever key,
removes. An engine's length and digest are compared with its record each time before it is used: one that differs is
built again.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from edgeq import __version__
from edgeq.artifact import Artifact
from edgeq.engine_store.key import KeyParts, differences, engine_key, unknown_parts
from edgeq.engine_store.lock import is_free, locked
from edgeq.errors import ArtifactError, EngineError, OutputError
from edgeq.files import new_directory, sha256_file
from edgeq.tensorrt.settings import BuildSettings

__all__ = ["ENGINE", "RECORD", "EngineRecord", "EngineStore", "StoredEngine", "default_store"]

ENGINE: Final = "engine.plan"
RECORD: Final = "engine.json"

_SYSTEM_STORE: Final = Path("/var/lib/edgeq/engines")
_LOCKS: Final = ".locks"
_EVIDENCE: Final = ".evidence"
_KEY: Final = re.compile(r"[0-9a-f]{64}")
_PARTIAL: Final = re.compile(r"\.([0-9a-f]{64})\.partial-[0-9a-f]+")


class EngineRecord(Artifact):
    """What an engine in the store is.

    Attributes:
        key: the SHA-256 of `parts` (`edgeq.engine_store.key`).
        size: of the engine's file, in bytes.
        sha256: of the same.
        parts: what the key is made of.
        settings: what the builder was told.
        builder: edgeq's version.
    """

    otherwise = "is not the record of an engine"

    version: Literal["edgeq.engine/1"] = "edgeq.engine/1"
    key: str = Field(pattern="^[0-9a-f]{64}$")
    size: int = Field(ge=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    parts: KeyParts
    settings: BuildSettings
    builder: str = f"edgeq {__version__}"


@dataclass(frozen=True)
class StoredEngine:
    """An engine in the store.

    Attributes:
        engine: its file.
        record: that belongs to it.
        reused: it was there; False where it was made just now.
        because: why it was made, or that it was there, in a sentence for a person.
    """

    engine: Path
    record: EngineRecord
    reused: bool
    because: str


def default_store() -> Path:
    """`/var/lib/edgeq/engines` for root and for those who may write there, else `edgeq/engines` in the user's cache."""
    if os.geteuid() == 0 or os.access(_SYSTEM_STORE, os.W_OK):
        return _SYSTEM_STORE
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if Path(cache).is_absolute() else Path.home() / ".cache") / "edgeq" / "engines"


class EngineStore:
    """The engines below one directory.

    Args:
        root: made when the first engine is built.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, key: str) -> StoredEngine | None:
        """The engine under `key`; None where there is none, or it is not what its record says."""
        found = self._look(key)
        return found if isinstance(found, StoredEngine) else None

    def evidence(self, key: str) -> Path:
        """The directory for what is left of a build under `key` that did not come out as planned."""
        return self.root / _EVIDENCE / key

    def require_room(self, needed: int) -> None:
        """Refuse what could not be kept when it is built.

        Raises:
            OutputError: fewer than `needed` bytes are free.
        """
        free = shutil.disk_usage(self.root).free
        if free < needed:
            raise OutputError(
                f"{self.root} has {free / 1e6:,.0f} MB free, and the engine takes {needed / 1e6:,.0f} MB or more",
                next_step="free some space, or choose another store with --store",
            )

    def build(
        self,
        settings: BuildSettings,
        parts: KeyParts,
        make: Callable[[Path], None],
        *,
        waiting: Callable[[], None] | None = None,
    ) -> StoredEngine:
        """The engine for `parts`, made unless it is there.

        Args:
            settings: to be recorded.
            parts: all of them known.
            make: writes the engine to the path that it is given.
            waiting: called before a wait for another process that builds the same.

        Raises:
            OutputError: the disk is full, or the store cannot be written; nothing is left behind.
            EngineError: a part of the key is not known, or nothing was made.
        """
        key = _known(parts)
        with locked(self._lock(key), waiting=waiting):
            self._remove_garbage(key)
            found = self._look(key)
            if isinstance(found, StoredEngine):
                return found
            because = found or self.explain(parts) or "no engine of this graph is in the store"
            if found:  # damaged
                shutil.rmtree(self.root / key)
            record = self._make(key, parts, settings, make)
        return StoredEngine(self.root / key / ENGINE, record, reused=False, because=because)

    def explain(self, parts: KeyParts) -> str:
        """How the nearest engine of the same graph differs; empty where there is none of it."""
        records = [record for record in self._records() if record.parts.graph.keys() == parts.graph.keys()]
        found = [(differences(record.parts, parts), record.key) for record in records]
        lines, key = min(
            ((lines, key) for lines, key in found if lines), key=lambda pair: len(pair[0]), default=((), "")
        )
        return f"the engine {key[:12]}… cannot be used: {'; '.join(lines)}" if lines else ""

    def _look(self, key: str) -> StoredEngine | str:
        """The engine under `key`, or what is wrong with what is there; empty where nothing is."""
        directory = self.root / key
        if not directory.is_dir():
            return ""
        try:
            record = EngineRecord.load(directory / RECORD)
        except ArtifactError as error:
            return f"{error.what}, so the engine beside it was not used"
        if record.key != key or engine_key(record.parts) != key:
            return f"{directory} holds the engine of another key"
        if fault := _fault(directory / ENGINE, record):
            return f"{directory / ENGINE} {fault}: it was changed or damaged after it was built"
        return StoredEngine(directory / ENGINE, record, reused=True, because="it is in the store")

    def _make(self, key: str, parts: KeyParts, settings: BuildSettings, make: Callable[[Path], None]) -> EngineRecord:
        try:
            with new_directory(self.root / key) as work:
                make(work / ENGINE)
                record = _record(work / ENGINE, key, parts, settings)
                record.save(work / RECORD)
        except OutputError as error:
            raise OutputError(
                error.what, expected=error.expected, next_step="free some space, or choose another store with --store"
            ) from error
        return record

    def _lock(self, key: str) -> Path:
        return self.root / _LOCKS / key

    def _remove_garbage(self, ours: str) -> None:
        """Remove what killed builds left: unfinished directories of keys that nobody is building."""
        evidence = self.root / _EVIDENCE
        for directory in (*self.root.iterdir(), *(evidence.iterdir() if evidence.is_dir() else ())):
            found = _PARTIAL.fullmatch(directory.name)
            if found is None:
                continue
            with nullcontext(True) if found[1] == ours else is_free(self._lock(found[1])) as free:
                if free:
                    shutil.rmtree(directory, ignore_errors=True)

    def _records(self) -> Iterator[EngineRecord]:
        """The records that can be read, by key."""
        for directory in sorted(self.root.iterdir()) if self.root.is_dir() else ():
            if _KEY.fullmatch(directory.name):
                with suppress(ArtifactError):
                    yield EngineRecord.load(directory / RECORD)


def _known(parts: KeyParts) -> str:
    """The key, or EngineError where a part of it is not known."""
    key = engine_key(parts)
    if key is None:
        raise EngineError(
            f"the engine has no key: {', '.join(unknown_parts(parts))} not known on this machine",
            expected="a machine with an NVIDIA GPU and its driver",
            next_step="build on the device; `--dry-run` shows the settings anywhere",
        )
    return key


def _fault(engine: Path, record: EngineRecord) -> str:
    """How a file differs from its record; empty where it does not. The length comes first: it costs nothing."""
    try:
        size = engine.stat().st_size
        if size != record.size:
            return f"has {size:,} bytes instead of {record.size:,}"
        if sha256_file(engine) != record.sha256:
            return "has other bytes than those that were built"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return ""


def _record(engine: Path, key: str, parts: KeyParts, settings: BuildSettings) -> EngineRecord:
    if not engine.is_file() or not engine.stat().st_size:
        raise EngineError("the builder ended without an engine")
    return EngineRecord(key=key, size=engine.stat().st_size, sha256=sha256_file(engine), parts=parts, settings=settings)
