"""What `manifest.json` holds: a bundle's files byte for byte, and what is known and needed."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgeq.artifact import LaterFields
from edgeq.bundle.errors import ManifestError, UnsafeNameError
from edgeq.bundle.needs import DeviceNeeds
from edgeq.bundle.release import Moment, Product, Release, Sequence
from edgeq.files import sha256_file

__all__ = [
    "MANIFEST",
    "MANIFEST_VERSION",
    "SIGNATURE",
    "BundledFile",
    "Kind",
    "Manifest",
    "Task",
    "check_name",
    "check_names",
    "not_a_bundle",
]

MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "manifest.sig"
MANIFEST_VERSION: Final = "edgeq.bundle/1"

_MAX_PART_BYTES: Final = 255
"""The longest file name of Linux's file systems."""

_SHOWN: Final = 200

Kind = Literal["classifier", "vision-language", "retrieval"]

Task = Literal["detect", "segment"]
"""What a graph from pixels is for that is neither a classifier's nor an encoder's."""


class BundledFile(BaseModel):
    """One file's name below the bundle (`/` between its parts), size in bytes, and SHA-256 in hexadecimal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    size: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")

    @classmethod
    def of(cls, path: Path, directory: Path) -> BundledFile:
        """Measure a file below `directory`."""
        name = path.relative_to(directory).as_posix()
        return cls(name=name, size=path.stat().st_size, sha256=sha256_file(path))


class Manifest(LaterFields):
    """A bundle's contents.

    Attributes:
        kind: what the bundle can do.
        made_by: edgeq's version.
        labels: class names by logit; empty where the model has none.
        allowed: guards that said no and were passed all the same: code -> because.
        needs: of the device.
        task: of a graph from pixels that finds objects, or gives each pixel a class; None, and not written, for others.
        product, sequence, made, expires: which release it is, as in `Release`; None, and not written, where that is
            not said.
        files: every file but the manifest and its signature, by name. The plan, the memory plan, the quality figures
            and the canaries are among them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal["edgeq.bundle/1"] = MANIFEST_VERSION
    kind: Kind
    made_by: str
    labels: tuple[str, ...]
    allowed: dict[str, str] = Field(default_factory=dict)
    needs: DeviceNeeds = DeviceNeeds()
    task: Task | None = None
    product: Product | None = None
    sequence: Sequence | None = None
    made: Moment | None = None
    expires: Moment | None = None
    later: ClassVar[tuple[str, ...]] = ("task", "product", "sequence", "made", "expires")
    files: tuple[BundledFile, ...]

    @property
    def release(self) -> Release | None:
        """Which release it is, if it says so."""
        if self.product is None or self.sequence is None or self.made is None:
            return None
        return Release(product=self.product, sequence=self.sequence, made=self.made, expires=self.expires)

    @property
    def total_bytes(self) -> int:
        """Of all files listed."""
        return sum(file.size for file in self.files)

    @model_validator(mode="after")
    def _release_is_told_whole(self) -> Manifest:
        told = {value is None for value in (self.product, self.sequence, self.made)}
        if len(told) > 1 or (self.expires is not None and self.product is None):
            raise ValueError("product, sequence and made come together")
        return self

    @model_validator(mode="after")
    def _files_can_lie_side_by_side(self) -> Manifest:
        names = {file.name for file in self.files}
        if len(names) < len(self.files):
            raise ValueError("a file is listed twice")
        if names & {MANIFEST, SIGNATURE}:
            raise ValueError("the manifest lists itself or its signature")
        if any(parent.as_posix() in names for name in names for parent in PurePosixPath(name).parents[:-1]):
            raise ValueError("a file is listed as the directory of another")
        return self


def check_name(name: str, where: str, *, most_bytes: int) -> None:
    """Refuse a name that is not plainly that of a file below its bundle.

    Args:
        name: as a manifest or a transport file has it.
        where: that manifest or file, for the message.
        most_bytes: the longest name, in UTF-8.

    Raises:
        UnsafeNameError: it is absolute, climbs, is hidden, not in its shortest form, too long, or no text.
    """
    fault = _fault(name, most_bytes)
    if fault:
        raise _unsafe(name, where, fault)


def check_names(names: Iterable[str], where: str, *, most_bytes: int) -> None:
    """Refuse names that cannot lie side by side on every file system, besides what `check_name` refuses.

    macOS and Windows take `Weights` for `weights`, and macOS both Unicode forms of `é` for one name: there the second
    file would replace the first one.

    Args:
        names: of a bundle's files, without the manifest and its signature.
        where: who names them, for the message.
        most_bytes: the longest name, in UTF-8.

    Raises:
        UnsafeNameError: a name is none, or is another's, but for case or Unicode form, or lies below the manifest.
    """
    spelled = {_folded(own): own for own in (MANIFEST, SIGNATURE)}
    for name in names:
        check_name(name, where, most_bytes=most_bytes)
        path = PurePosixPath(name)
        for part in (*(parent.as_posix() for parent in path.parents[:-1]), name):
            if spelled.setdefault(_folded(part), part) != part:
                raise _unsafe(name, where, f"{spelled[_folded(part)]!r:.80} differs in case or Unicode form alone")
        if _folded(path.parts[0]) in (MANIFEST, SIGNATURE):
            raise _unsafe(name, where, f"{path.parts[0]} is the bundle's own file")


def _folded(name: str) -> str:
    """What case and Unicode form leave of a name."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def _unsafe(name: str, where: str, fault: str) -> UnsafeNameError:
    shown = name.encode("unicode_escape", "replace").decode("ascii")[:80]
    return UnsafeNameError(
        f"{where} names a file {shown!r}: {fault}",
        expected="names below the bundle, such as language/config.json",
        causes=("it was made to write elsewhere", "it was not made by edgeq"),
    )


def _fault(name: str, most_bytes: int) -> str:
    """What is wrong with a name; empty where nothing is."""
    pure = PurePosixPath(name)
    if pure.is_absolute():
        return "it is absolute"
    if ".." in pure.parts:
        return "it leads out of the bundle"
    if not pure.parts or pure.as_posix() != name:
        return "it is not in its plain form"
    if any(part.startswith(".") for part in pure.parts):
        return "it is hidden"
    if not all(character.isprintable() for character in name):
        return "it has characters that cannot be shown"
    if len(name.encode()) > most_bytes or any(len(part.encode()) > _MAX_PART_BYTES for part in pure.parts):
        return "it is too long"
    return ""


def not_a_bundle(where: Path | str, error: Exception) -> ManifestError:
    """The error for something that has no manifest, or one of another form."""
    return ManifestError(
        f"{where} is not a bundle",
        expected=f"a directory with a {MANIFEST} of version {MANIFEST_VERSION}",
        causes=(" ".join(str(error).split())[:_SHOWN],),
    )
