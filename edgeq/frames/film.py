"""A film in a file."""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path
from typing import Final

from edgeq.errors import ImageError
from edgeq.files import require_plain
from edgeq.frames.base import Frame
from edgeq.frames.ffmpeg import Input, decoded, opened

__all__ = ["FILM_SUFFIXES", "FilmSource"]

FILM_SUFFIXES: Final = frozenset(
    (
        *(".asf", ".avi", ".flv", ".gif", ".h264", ".hevc", ".ivf", ".m2ts", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov"),
        *(".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".webm", ".wmv", ".y4m"),
    )
)
"""How the names of films end, in lower case: where a film is told from an image by its name."""


class FilmSource:
    """Every frame of a file, in order; or as a camera would give them.

    Args:
        path: of the file.
        real_time: each frame comes when it is due by its timestamp, and is not waited for; its time of arrival is then
            when it was due, so that slow decoding counts as latency.
    """

    def __init__(self, path: Path, *, real_time: bool = False) -> None:
        self._path = path
        self._real_time = real_time
        self._input = Input(f"file:{path}", str(path), "file")

    @property
    def name(self) -> str:
        """Its path."""
        return str(self._path)

    @property
    def live(self) -> bool:
        """It ends."""
        return False

    @property
    def damaged(self) -> int:
        """As for `FrameSource.damaged`."""
        return self._input.damaged

    def check(self) -> None:
        """Open it; raises ImageError."""
        self._require_plain()
        opened(self._input).close()

    def frames(self) -> Generator[Frame, None, None]:
        """As for `FrameSource.frames`.

        Raises:
            ImageError: it cannot be opened, or has no frame.
        """
        self._require_plain()
        frames = decoded(self._input)
        found = False
        for frame in _in_real_time(frames) if self._real_time else frames:
            found = True
            yield frame
        if not found:
            raise ImageError(f"{self._path} has no frame that can be decoded", causes=("it is cut short or damaged",))

    def _require_plain(self) -> None:
        try:
            require_plain(self._path)
        except OSError as error:
            raise ImageError(
                f"{self._path} cannot be opened: {error.strerror or error}",
                expected="a film, a folder, a camera (/dev/video0), an address (rtsp://…) or a pipeline of GStreamer",
                passing=isinstance(error, FileNotFoundError),
            ) from error


_LONGEST_GAP_S: Final = 10.0
"""A jump of timestamps beyond this is none of time."""


def _in_real_time(frames: Generator[Frame, None, None]) -> Generator[Frame, None, None]:
    """Frames when they are due; where timestamps jump or are missing, the clock starts again."""
    start, last = None, None
    for frame in frames:
        seconds = frame.seconds
        if seconds is None:
            yield frame
            continue
        if start is None or last is None or not 0 <= seconds - last <= _LONGEST_GAP_S:
            start = time.monotonic() - seconds
        last, due = seconds, start + seconds
        time.sleep(max(due - time.monotonic(), 0))
        yield Frame(seconds, due, frame.image)
