"""Where everything lies in a catalog's directory, and the records in it."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from edgeq.artifact import Artifact
from edgeq.errors import InputError, OutputError

__all__ = [
    "MAX_SHARDS",
    "MAX_SHARD_SIZE",
    "SHARD_SIZE",
    "Catalog",
    "FileRecord",
    "Layout",
    "Settings",
    "ShardEntry",
    "ShardRecord",
    "Skip",
    "Skipped",
    "sync_directory",
]

SHARD_SIZE: Final = 10_000
"""Images in a shard."""

MAX_SHARD_SIZE: Final = 1_000_000
MAX_SHARDS: Final = 10_000
"""Other tools read shards in the order of their names, which have four digits."""

Skip = Literal["gone", "cannot be read", "cannot be decoded", "has no embedding"]
"""Why an image has no row. `gone` is no damage: it was removed or changed before its turn came."""


class _Part(BaseModel):
    """A part of an artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FileRecord(_Part):
    """A file: its length in bytes, and the SHA-256 of its bytes in hexadecimal."""

    bytes: int = Field(ge=0)
    sha256: str


class Skipped(_Part):
    """An image without a row.

    Attributes:
        position: in the plan of its shard, from 0.
        path: where it lies.
        kind: of reason.
        reason: in one line.
    """

    position: int = Field(ge=0)
    path: str
    kind: Skip
    reason: str


class Settings(Artifact):
    """What is the same for all shards.

    Attributes:
        bundle_digest: of the bundle that embeds.
        shard_size: images planned for each shard but the last of a look.
    """

    otherwise: ClassVar[str] = "is not the settings of a catalog"
    made_by: ClassVar[str] = "edgeq"

    version: Literal["edgeq.catalog-settings/1"] = "edgeq.catalog-settings/1"
    bundle_digest: str
    shard_size: int = Field(ge=1, le=MAX_SHARD_SIZE)


class ShardRecord(Artifact):
    """A shard that is whole.

    Attributes:
        shard: its number.
        bundle_digest: of the bundle that embedded it.
        items: images planned.
        items_sha256: over the identities of these, in their order.
        rows: images embedded.
        dimension: of a vector.
        embeddings: the file of vectors; None where there is no row, and then no file.
        metadata: the file of columns, likewise.
        skipped: the images that have no row; `items` less `rows`.
        texts_unreadable: captions and JSON files that could not be used; their images have rows.
    """

    otherwise: ClassVar[str] = "is not the record of a shard"
    made_by: ClassVar[str] = "edgeq"

    version: Literal["edgeq.catalog-shard/1"] = "edgeq.catalog-shard/1"
    shard: int = Field(ge=0)
    bundle_digest: str
    items: int = Field(ge=0)
    items_sha256: str
    rows: int = Field(ge=0)
    dimension: int = Field(ge=1)
    embeddings: FileRecord | None
    metadata: FileRecord | None
    skipped: tuple[Skipped, ...] = ()
    texts_unreadable: int = 0


class ShardEntry(_Part):
    """A shard as the catalog lists it.

    Attributes:
        shard: its number.
        rows: in both files.
        embeddings: the file of vectors; None where there is no row, and then no file.
        metadata: the file of columns, likewise.
        skipped: images without a row, by the reason.
    """

    shard: int = Field(ge=0)
    rows: int = Field(ge=0)
    embeddings: FileRecord | None
    metadata: FileRecord | None
    skipped: Mapping[Skip, int] = {}


class Catalog(Artifact):
    """All of it.

    Attributes:
        bundle_digest: of the bundle that embedded every image.
        dimension: of a vector.
        shard_size: images planned for a shard.
        sources: where the images lie.
        rows: in all shards, those of removed images too.
        removed: rows that readers leave out.
        skipped: images without a row, by the reason.
        shards: in the order of their numbers, which begin at 0.
    """

    otherwise: ClassVar[str] = "is not a catalog"
    made_by: ClassVar[str] = "edgeq"

    version: Literal["edgeq.catalog/1"] = "edgeq.catalog/1"
    bundle_digest: str
    dimension: int = Field(ge=1)
    shard_size: int = Field(ge=1)
    sources: tuple[str, ...]
    rows: int = Field(ge=0)
    removed: int = Field(ge=0)
    skipped: Mapping[Skip, int]
    shards: tuple[ShardEntry, ...]


class Layout:
    """The paths of a catalog.

    Args:
        root: its directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.catalog = self.root / "catalog.json"
        self.removed = self.root / "removed.jsonl"
        self.plan = self.root / "plan"
        self.settings = self.plan / "settings.json"
        self.locks = self.root / "locks"

    def embeddings(self, shard: int) -> Path:
        """The vectors of a shard."""
        return self.root / "img_emb" / f"img_emb_{shard:04d}.npy"

    def metadata(self, shard: int) -> Path:
        """The columns of a shard."""
        return self.root / "metadata" / f"metadata_{shard:04d}.parquet"

    def damaged(self, shard: int) -> Path:
        """The images of a shard that have no row."""
        return self.root / "damaged" / f"damaged_{shard:04d}.jsonl"

    def record(self, shard: int) -> Path:
        """What says that a shard is whole."""
        return self.root / "shards" / f"{shard:04d}.json"

    def lock(self, shard: int) -> Path:
        """Held by the process that makes a shard."""
        return self.locks / f"{shard:04d}"

    def make(self) -> None:
        """Make the directories, and sync their names.

        Raises:
            OutputError: they cannot be made.
        """
        files = (self.embeddings(0), self.metadata(0), self.damaged(0), self.record(0), self.settings, self.lock(0))
        try:
            for directory in (self.root, *(file.parent for file in files)):
                if not directory.is_dir():
                    directory.mkdir(parents=True, exist_ok=True)
                    sync_directory(directory.parent)
            if not os.access(self.locks, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise OutputError(
                f"{self.root} cannot be written: {error.strerror or error}",
                expected="a directory where this user may create files",
                next_step="choose another one",
            ) from error

    def sweep(self, path: Path) -> None:
        """Remove what a killed process left of `path`; the lock that guards it must be held."""
        for left in path.parent.glob(f".{path.name}.partial-*"):
            left.unlink(missing_ok=True)

    def check_shard(self, shard: int) -> None:
        """Raise InputError where there can be no shard of this number."""
        if not 0 <= shard < MAX_SHARDS:
            raise InputError(
                f"shard {shard:,} cannot be named",
                expected=f"at most {MAX_SHARDS:,} shards: other tools read them in the order of four digits",
                next_step="begin a new catalog with a larger shard size",
            )


def sync_directory(directory: Path) -> None:
    """fsync a directory, so that the names in it outlast a loss of power."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
