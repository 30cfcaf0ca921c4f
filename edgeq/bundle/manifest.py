"""`manifest.json`: what a bundle holds, byte for byte, and what is known about it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgeq import __version__
from edgeq.errors import ArtifactError
from edgeq.files import atomic_write, sha256_file

__all__ = ["MANIFEST", "BundledFile", "Manifest", "read_manifest", "write_manifest"]

MANIFEST = "manifest.json"
MANIFEST_VERSION: Final = "edgeq.bundle/1"
MAX_MANIFEST_BYTES = 16 * 1024 * 1024


class BundledFile(BaseModel):
    """One file's name (no directories), size in bytes, and SHA-256 in hexadecimal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> BundledFile:
        """Measure a file."""
        return cls(name=path.name, size=path.stat().st_size, sha256=sha256_file(path))


class Manifest(BaseModel):
    """A bundle's contents.

    Attributes:
        kind: what the bundle can do.
        made_by: edgeq's version.
        labels: class names by logit; empty where the model has none.
        allowed: guards that said no and were passed all the same: code -> because.
        files: every file but the manifest, by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal["edgeq.bundle/1"] = MANIFEST_VERSION
    kind: Literal["classifier"]
    made_by: str
    labels: tuple[str, ...]
    allowed: dict[str, str] = Field(default_factory=dict)
    files: tuple[BundledFile, ...]

    @model_validator(mode="after")
    def _each_file_once(self) -> Manifest:
        if len({file.name for file in self.files}) < len(self.files):
            raise ValueError("a file is listed twice")
        return self


def write_manifest(directory: Path, *, labels: tuple[str, ...], allowed: Mapping[str, str] | None = None) -> Manifest:
    """Measure every file in `directory` and write its manifest."""
    files = tuple(BundledFile.of(path) for path in sorted(directory.iterdir()) if path.name != MANIFEST)
    made_by = f"edgeq {__version__}"
    manifest = Manifest(kind="classifier", made_by=made_by, labels=labels, allowed=dict(allowed or {}), files=files)
    atomic_write(directory / MANIFEST, manifest.model_dump_json(indent=1).encode())
    return manifest


def read_manifest(directory: Path) -> Manifest:
    """Read a bundle's manifest and check every file against it; hidden files are not looked at.

    Raises:
        ArtifactError: there is no manifest, it is not one of this version, or a file is missing, differs or is not
            listed.
    """
    path = directory / MANIFEST
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise ValueError(f"larger than {MAX_MANIFEST_BYTES} bytes")
        manifest = Manifest.model_validate_json(path.read_bytes())
    except (OSError, ValueError, ValidationError) as error:
        raise ArtifactError(
            f"{directory} is not a bundle",
            expected=f"a directory with a {MANIFEST} of version {MANIFEST_VERSION}",
            causes=(" ".join(str(error).split())[:200],),
        ) from error
    for file in manifest.files:
        _check(directory, file)
    _check_all_listed(directory, manifest)
    return manifest


def _check(directory: Path, file: BundledFile) -> None:
    path = directory / file.name
    if Path(file.name).name != file.name or path.is_symlink() or not path.is_file():
        raise ArtifactError(f"the bundle {directory} lacks its file {file.name!r}")
    if path.stat().st_size != file.size or sha256_file(path) != file.sha256:
        raise ArtifactError(
            f"{path} is not the file that the manifest lists",
            causes=("it was changed after the bundle was made", "the copy is damaged"),
            next_step="copy the bundle again",
        )


def _check_all_listed(directory: Path, manifest: Manifest) -> None:
    """A file that is not listed would be used without a check, so there may be none."""
    listed = {MANIFEST, *(file.name for file in manifest.files)}
    for path in sorted(directory.iterdir()):
        if path.name not in listed and not path.name.startswith("."):
            raise ArtifactError(
                f"{path} is not listed in the bundle's {MANIFEST}",
                causes=("it was put there after the bundle was made", "the manifest was changed"),
                next_step="move it elsewhere, or copy the bundle again",
            )
