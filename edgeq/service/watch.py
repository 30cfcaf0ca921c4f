"""A folder that a camera fills: each image gets a report beside it, once and in order; what fails is kept apart.

An image is complete when neither its size nor its time of change has changed between two looks; one that cannot be
decoded yet may still be written, and is given some time. The images behind it wait, so that reports keep the order of
the images' times. A report names its image's size, time and digest: who starts again finds what was done already, and
an image that was replaced by another one under the same name is looked at again.

    a.jpg  ->  a.jpg.json            the report
    b.jpg  ->  failed/b.jpg          the image, moved
               failed/b.jpg.json     the reason
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal

from edgeq.artifact import Artifact
from edgeq.errors import ArtifactError, DeviceLostError, EdgeqError, ImageError, InputError, OutputError
from edgeq.model.images.decode import IMAGE_SUFFIXES, decode_image
from edgeq.model.images.stores.base import read_file
from edgeq.runtime.scheduler.errors import TooLargeError
from edgeq.service.settings import WATCH_TIMEOUT_S
from edgeq.service.watch_inference import Look, Seen

__all__ = ["FAILED", "ImageFailure", "ImageReport", "Watch"]

FAILED: Final = "failed"
"""The directory of what could not be looked at, and of the reasons."""


class ImageReport(Artifact):
    """What is on an image.

    Attributes:
        image: its name.
        bytes, modified_ns, sha256: size, time of change (nanoseconds since 1970) and digest of the image.
        model: that looked at it.
        seen: what it saw.
    """

    otherwise: ClassVar[str] = "is no report on an image"
    made_by: ClassVar[str] = "edgeq watch"

    version: Literal["edgeq.image-report/1"] = "edgeq.image-report/1"
    image: str
    bytes: int
    modified_ns: int
    sha256: str
    model: str
    seen: Seen


class ImageFailure(Artifact):
    """Why there is no report on an image."""

    otherwise: ClassVar[str] = "does not say why an image failed"
    made_by: ClassVar[str] = "edgeq watch"

    version: Literal["edgeq.image-failure/1"] = "edgeq.image-failure/1"
    image: str
    bytes: int
    reason: str


@dataclass(frozen=True, order=True)
class _Entry:
    """An image as it is there; entries are in the order of their times."""

    modified_ns: int
    name: str
    bytes: int


class Watch:
    """Looks at a folder again and again.

    Args:
        directory: that is watched; directories in it are not.
        look: looks at one image.
        model: its name.
        clock: seconds that do not go back.
        timeout: seconds that an image which cannot be decoded may still be in the making.

    Raises:
        InputError: there is no such directory.
    """

    def __init__(
        self, directory: Path, look: Look, model: str, clock: Callable[[], float], timeout: float = WATCH_TIMEOUT_S
    ) -> None:
        if not directory.is_dir():
            raise InputError(
                f"{directory} is no directory", expected="the folder that images are put into", passing=True
            )
        self._directory = directory
        self._look = look
        self._model = model
        self._clock = clock
        self._timeout = timeout
        self._since: dict[_Entry, float] = {}
        self._done: set[_Entry] = set()

    def turn(self) -> Iterator[ImageReport | ImageFailure]:
        """Look once; gives what was made of each image, as it is written.

        Raises:
            OutputError: a report cannot be written.
            DeviceLostError: the accelerator is lost.
            InputError: the question cannot be asked about any image.
        """
        entries, before = self._entries(), self._since
        self._since = {entry: before.get(entry, self._clock()) for entry in entries}
        self._done &= set(entries)
        for entry in entries:
            if entry in self._done or self._is_reported(entry):
                self._done.add(entry)
                continue
            if entry not in before:
                return  # seen for the first time: it may grow, and those behind it wait
            made = self._made(entry)
            if made is None:
                return
            self._done.add(entry)
            yield made

    @property
    def waiting(self) -> int:
        """Images that have neither a report nor a reason yet."""
        return len(set(self._since) - self._done)

    def _entries(self) -> list[_Entry]:
        """The images that are there, in their order."""
        found = []
        with os.scandir(self._directory) as files:
            for file in files:
                if file.name.startswith(".") or Path(file.name).suffix.lower() not in IMAGE_SUFFIXES:
                    continue
                with suppress(OSError):  # it went away meanwhile
                    status = file.stat(follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode):
                        found.append(_Entry(status.st_mtime_ns, file.name, status.st_size))
        return sorted(found)

    def _is_reported(self, entry: _Entry) -> bool:
        path = self._report_path(entry)
        if not path.exists():
            return False
        try:
            report = ImageReport.load(path)
        except ArtifactError:  # somebody else's, or of another version: it is replaced
            return False
        return (report.image, report.bytes, report.modified_ns) == (entry.name, entry.bytes, entry.modified_ns)

    def _made(self, entry: _Entry) -> ImageReport | ImageFailure | None:
        """A report or a failure, written; None where the image must wait."""
        path = self._directory / entry.name
        try:
            data = read_file(path, entry.name)
            image = decode_image(data, entry.name)
        except ImageError as error:
            late = self._clock() - self._since[entry] >= self._timeout
            return self._failed(entry, error) if late and path.exists() else None
        if not self._unchanged(entry):
            return None
        try:
            seen = self._look(image)
        except DeviceLostError:  # no fault of the image, which is looked at again by the next process
            raise
        except EdgeqError as error:
            if isinstance(error, InputError) and not isinstance(error, ImageError | TooLargeError):
                raise
            return self._failed(entry, error)
        report = ImageReport(
            image=entry.name,
            bytes=entry.bytes,
            modified_ns=entry.modified_ns,
            sha256=hashlib.sha256(data).hexdigest(),
            model=self._model,
            seen=seen,
        )
        report.save(self._report_path(entry))
        return report

    def _failed(self, entry: _Entry, error: EdgeqError) -> ImageFailure:
        """Move an image away, its reason first: who is killed between the two does it once more."""
        folder = self._directory / FAILED
        failure = ImageFailure(image=entry.name, bytes=entry.bytes, reason=str(error))
        try:
            folder.mkdir(exist_ok=True)
            to = _free_name(folder, entry.name)
            failure.save(to.with_name(f"{to.name}.json"))
            (self._directory / entry.name).rename(to)
        except FileNotFoundError:  # it was taken away: the reason stays
            pass
        except OSError as problem:
            raise OutputError(f"{entry.name} cannot be moved to {folder}: {problem.strerror}") from problem
        return failure

    def _unchanged(self, entry: _Entry) -> bool:
        try:
            status = (self._directory / entry.name).stat()
        except OSError:
            return False
        return (status.st_size, status.st_mtime_ns) == (entry.bytes, entry.modified_ns)

    def _report_path(self, entry: _Entry) -> Path:
        return self._directory / f"{entry.name}.json"


def _free_name(folder: Path, name: str) -> Path:
    """A name that no image in a folder has: `a.jpg`, `a-2.jpg`, ..."""
    wanted, number = Path(name), 1
    while (folder / wanted).exists():
        number += 1
        wanted = Path(f"{Path(name).stem}-{number}{Path(name).suffix}")
    return folder / wanted
