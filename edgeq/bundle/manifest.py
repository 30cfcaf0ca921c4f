"""`manifest.json`: what a bundle holds, byte for byte, and what is known about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgeq import __version__
from edgeq.errors import ArtifactError
from edgeq.files import atomic_write, sha256_file

__all__ = ["MANIFEST", "BundledFile", "Kind", "Manifest", "read_manifest", "write_manifest"]

MANIFEST = "manifest.json"
MANIFEST_VERSION: Final = "edgeq.bundle/1"
MAX_MANIFEST_BYTES = 16 * 1024 * 1024

Kind = Literal["classifier", "vision-language"]


class BundledFile(BaseModel):
    """One file's name below the bundle (`/` between its parts), size in bytes, and SHA-256 in hexadecimal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path, directory: Path) -> BundledFile:
        """Measure a file below `directory`."""
        name = path.relative_to(directory).as_posix()
        return cls(name=name, size=path.stat().st_size, sha256=sha256_file(path))


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
    kind: Kind
    made_by: str
    labels: tuple[str, ...]
    allowed: dict[str, str] = Field(default_factory=dict)
    files: tuple[BundledFile, ...]

    @model_validator(mode="after")
    def _each_file_once(self) -> Manifest:
        if len({file.name for file in self.files}) < len(self.files):
            raise ValueError("a file is listed twice")
        return self


def write_manifest(
    directory: Path,
    *,
    kind: Kind = "classifier",
    labels: tuple[str, ...] = (),
    allowed: Mapping[str, str] | None = None,
) -> Manifest:
    """Measure every file below `directory` and write its manifest."""
    names = [path for path in _files(directory) if path != directory / MANIFEST]
    files = tuple(BundledFile.of(path, directory) for path in names)
    made_by = f"edgeq {__version__}"
    manifest = Manifest(kind=kind, made_by=made_by, labels=labels, allowed=dict(allowed or {}), files=files)
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


def _files(directory: Path) -> Iterator[Path]:
    """Everything below that is no directory and not hidden, sorted; a link is a file, wherever it leads."""
    for path in sorted(directory.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _files(path)
        else:
            yield path


def _check(directory: Path, file: BundledFile) -> None:
    path = directory / file.name
    if not _lies_below(directory, file.name) or not path.is_file():
        raise ArtifactError(f"the bundle {directory} lacks its file {file.name!r}")
    if path.stat().st_size != file.size or sha256_file(path) != file.sha256:
        raise ArtifactError(
            f"{path} is not the file that the manifest lists",
            causes=("it was changed after the bundle was made", "the copy is damaged"),
            next_step="copy the bundle again",
        )


def _lies_below(directory: Path, name: str) -> bool:
    """Whether a name is one that `BundledFile.of` writes, and no part of it is a link that could lead elsewhere."""
    pure = PurePosixPath(name)
    if not pure.parts or pure.is_absolute() or ".." in pure.parts or pure.as_posix() != name or "\0" in name:
        return False
    return not any((directory / parent).is_symlink() for parent in (pure, *pure.parents[:-1]))


def _check_all_listed(directory: Path, manifest: Manifest) -> None:
    """A file that is not listed would be used without a check, so there may be none."""
    listed = {directory / name for name in (MANIFEST, *(file.name for file in manifest.files))}
    for path in _files(directory):
        if path not in listed:
            raise ArtifactError(
                f"{path} is not listed in the bundle's {MANIFEST}",
                causes=("it was put there after the bundle was made", "the manifest was changed"),
                next_step="move it elsewhere, or copy the bundle again",
            )
