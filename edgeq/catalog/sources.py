"""What the images are: folders, zips and tars, listed without reading an image, and read one at a time."""

from __future__ import annotations

import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final

from edgeq.catalog.folders import FolderSource
from edgeq.catalog.items import GoneError, Item, Source, absolute
from edgeq.catalog.tars import TarSource
from edgeq.catalog.zips import ZipSource
from edgeq.errors import ImageError, InputError
from edgeq.files import open_plain

__all__ = ["GoneError", "Item", "Sources", "open_sources"]

_OPEN: Final = 8
"""Archives whose directory is held in memory at once. A shard rarely reads from more than two."""

_TAR: Final = ".tar"


class Sources:
    """Images in several places, in the order of the places as given. Reading is safe from several threads.

    An archive is opened when something in it is asked for, and closed when eight others were since: a directory of a
    thousand tars takes no more memory than one of eight.

    Args:
        paths: absolute, each once.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = tuple(paths)
        self.passed_over: Counter[str] = Counter()
        self._open: OrderedDict[str, Source] = OrderedDict()
        self._broken: dict[str, str] = {}
        self._lock = threading.Lock()

    def items(self) -> Iterator[Item]:
        """Every image, place by place; what is no image is counted in `passed_over` by the reason.

        Raises:
            ImageError: a place is damaged or not safe; an archive that is cut short is named.
        """
        self.passed_over.clear()
        for path in self.paths:
            try:
                source = _open_source(path)
            except FileNotFoundError as error:
                raise _missing(path) from error
            try:
                yield from source.items()
                self.passed_over.update(source.passed_over)
            finally:
                source.close()

    def read(self, item: Item) -> bytes:
        """The encoded bytes of one image.

        Raises:
            GoneError: it is not there, or is another by now.
            ImageError: it cannot be read, or is too long.
        """
        return self._source(item).read(item)

    def beside(self, item: Item, suffix: str, most: int) -> bytes | None:
        """What lies beside an image under the same key with another ending; None where there is nothing.

        Args:
            item: the image.
            suffix: CAPTION_SUFFIX or JSON_SUFFIX.
            most: bytes that are read.

        Raises:
            ImageError: it cannot be read, or is longer.
        """
        return self._source(item).beside(item, suffix, most)

    def key(self, item: Item) -> str:
        """What the files that belong to an image have in common: its name without its ending or endings."""
        return self._source(item).key(item.name)

    def close(self) -> None:
        """Close the archives that are open."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    def __enter__(self) -> Sources:
        """Close at the end of a block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _source(self, item: Item) -> Source:
        """The place of an image; raises GoneError where it is not there any more, ImageError where it is damaged."""
        with self._lock:
            if item.source in self._broken:  # found once, not again for each of its images
                raise ImageError(self._broken[item.source])
            if item.source not in self._open:
                try:
                    self._open[item.source] = _open_source(item.source)
                except FileNotFoundError as error:
                    raise GoneError(f"{item.source} is gone") from error
                except ImageError as error:
                    self._broken[item.source] = error.what
                    raise
                while len(self._open) > _OPEN:
                    self._open.popitem(last=False)  # closed when the last thread that reads from it lets go of it
            self._open.move_to_end(item.source)
            return self._open[item.source]


def open_sources(paths: Sequence[str | Path]) -> Sources:
    """The images at `paths`; they are listed by `items`, and so is what is wrong with an archive.

    Args:
        paths: folders, zips and tars. Where one is decides what its images are called, so a path may hold links, and is
            kept as it was given but for being made absolute.

    Raises:
        InputError: there is none, one is given twice, or one lies in another.
        ImageError: one does not exist.
    """
    given = [absolute(path) for path in paths]
    if not given:
        raise InputError("no images were given", expected="a folder, a zip or a tar")
    for path in given:
        if not Path(path).exists():
            raise _missing(path)
    _refuse_nested(given)
    return Sources(given)


def _refuse_nested(paths: Sequence[str]) -> None:
    """Raise InputError where one image would be in the catalog twice."""
    real = {os.path.realpath(path): path for path in paths}
    if len(real) < len(paths):
        twice = next(path for path in paths if path not in real.values())
        raise InputError(f"{twice} was given twice", next_step="give it once")
    for resolved, path in real.items():
        inside = next((str(above) for above in Path(resolved).parents if str(above) in real), None)
        if inside is not None and Path(resolved).is_dir():
            raise InputError(
                f"{path} lies in {real[inside]}, which was given as well", next_step="give only the folder above"
            )


def _open_source(path: str) -> Source:
    """The folder or archive at a path.

    Raises:
        FileNotFoundError: there is nothing.
        ImageError: it cannot be read, is neither, is damaged, or is not safe.
    """
    where = Path(path)
    if not where.exists():
        raise FileNotFoundError(path)
    if where.is_dir():
        return FolderSource(where)
    if not where.is_file():
        raise ImageError(f"{path} is neither a folder nor a file", expected="a folder, a zip or a tar")
    return TarSource(where) if _looks_like_tar(where) else ZipSource(where)


def _looks_like_tar(path: Path) -> bool:
    """Whether a file is to be read as a tar: by its name, or by its first header."""
    if path.suffix.lower() == _TAR or ".tar." in path.name.lower() or path.suffix.lower() == ".tgz":
        return True
    with suppress(OSError), open_plain(path) as file:
        return file.read(262)[257:] == b"ustar"
    return False


def _missing(path: str) -> ImageError:
    return ImageError(
        f"{path} does not exist",
        expected="a folder, a zip or a tar",
        causes=("its disk is not mounted",) if not Path(path).parent.is_dir() else (),
    )
