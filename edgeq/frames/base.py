"""What a source of frames is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Final, Protocol

from PIL import Image

from edgeq.errors import ImageError

__all__ = ["MAX_FRAME_PIXELS", "Frame", "FrameSource", "LiveSource"]

MAX_FRAME_PIXELS: Final = 7680 * 4320
"""The largest frame decoded, in pixels: 8K."""


@dataclass(frozen=True)
class Frame:
    """A frame as it came; its pixels are converted only where it is looked at.

    Attributes:
        seconds: in a film from its beginning, as its timestamps say; None of a camera, and where nothing tells.
        arrived: when it was there, by `time.monotonic`. Of a camera: when its last bytes had come and were decoded.
        image: gives the pixels in mode RGB, upright, with square pixels; raises ImageError.
        name: of its own, such as a file's in a folder.
    """

    seconds: float | None
    arrived: float
    image: Callable[[], Image.Image]
    name: str | None = None


class FrameSource(Protocol):
    """Where frames come from."""

    @property
    def name(self) -> str:
        """For people: an address without user, password and query."""
        ...

    @property
    def live(self) -> bool:
        """It goes on whether it is followed or not, and is connected to again when it ends."""
        ...

    @property
    def damaged(self) -> int:
        """Pieces so far that could not be decoded, and were passed over."""
        ...

    def check(self) -> None:
        """See at once whether frames will come; raises InputError, one that passes where they may come later."""
        ...

    def frames(self) -> Generator[Frame, None, None]:
        """The frames in their order, from the beginning or from now; closing the iterator closes what is open.

        Raises:
            ImageError: nothing can be read from it, or not any more.
        """
        ...


class LiveSource(ABC):
    """What cameras and streams have in common.

    Args:
        name: for people.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def name(self) -> str:
        """As for `FrameSource.name`."""
        return self._name

    @property
    def live(self) -> bool:
        """It goes on."""
        return True

    def check(self) -> None:
        """Open it, and wait for the first frame.

        Raises:
            ImageError: none comes.
        """
        with closing(self.frames()) as frames:
            if next(frames, None) is None:
                raise ImageError(f"{self._name} ended before its first frame", passing=True)

    @abstractmethod
    def frames(self) -> Generator[Frame, None, None]:
        """As for `FrameSource.frames`."""
