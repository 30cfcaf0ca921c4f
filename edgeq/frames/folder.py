"""A folder of images, as they lie there now."""

from __future__ import annotations

import time
from collections.abc import Generator
from functools import partial
from pathlib import Path

from PIL import Image

from edgeq.errors import ImageError
from edgeq.frames.base import Frame
from edgeq.model.images.decode import IMAGE_SUFFIXES, decode_image
from edgeq.model.images.stores.base import read_file

__all__ = ["FolderSource"]


class FolderSource:
    """The images of a folder in the order of their names; those in folders below are left out.

    Args:
        directory: the folder.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def name(self) -> str:
        """Its path."""
        return str(self._directory)

    @property
    def live(self) -> bool:
        """It ends."""
        return False

    @property
    def damaged(self) -> int:
        """None: an image that cannot be decoded is an error of its own."""
        return 0

    def check(self) -> None:
        """Raise ImageError where there is no image in it."""
        if not self._paths():
            raise ImageError(
                f"{self._directory} has no images in it",
                expected=f"files that end in {', '.join(sorted(IMAGE_SUFFIXES))}",
            )

    def frames(self) -> Generator[Frame, None, None]:
        """As for `FrameSource.frames`."""
        self.check()
        for path in self._paths():
            yield Frame(None, time.monotonic(), partial(_read, path), path.name)

    def _paths(self) -> list[Path]:
        try:
            found = [path for path in self._directory.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
        except OSError as error:
            raise ImageError(f"{self._directory} cannot be read: {error.strerror or error}") from error
        return sorted(path for path in found if not path.name.startswith(".") and path.is_file())


def _read(path: Path) -> Image.Image:
    return decode_image(read_file(path, str(path)), str(path))
