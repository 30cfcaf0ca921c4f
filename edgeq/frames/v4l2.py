"""A camera of Video4Linux: USB, HDMI grabbers, and what else is /dev/video0."""

from __future__ import annotations

import stat
from collections.abc import Generator
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl

from edgeq.errors import ImageError, InputError
from edgeq.frames.base import Frame, LiveSource
from edgeq.frames.ffmpeg import Input, decoded

__all__ = ["V4l2Source"]

_OPTIONS: Final = ("framerate", "input_format", "video_size")
"""Of FFmpeg's `v4l2`, that may stand behind the device: what the camera is asked for."""


class V4l2Source(LiveSource):
    """A device, with what it is asked for behind a question mark.

    Args:
        device: such as `/dev/video0?video_size=1280x720&input_format=mjpeg`.
        timeout: seconds in which it must open.

    Raises:
        InputError: what stands behind the question mark is not known.
    """

    def __init__(self, device: str, timeout: float) -> None:
        path, _mark, query = device.partition("?")
        options = dict(parse_qsl(query))
        if set(options) - set(_OPTIONS) or bool(query) != bool(options):
            raise InputError(f"{device}: an option is not known", expected=f"{', '.join(_OPTIONS)} behind the ?")
        self._path = Path(path)
        super().__init__(device)
        self._input = Input(path, device, "", "v4l2", options, live=True, open_s=timeout, read_s=timeout)

    @property
    def damaged(self) -> int:
        """As for `FrameSource.damaged`."""
        return self._input.damaged

    def frames(self) -> Generator[Frame, None, None]:
        """As for `FrameSource.frames`, until the device is gone.

        Raises:
            ImageError: it is no device, or cannot be opened.
        """
        try:
            mode = self._path.stat().st_mode
        except OSError as error:
            raise ImageError(f"{self._path} cannot be opened: {error.strerror}", passing=True) from error
        if not stat.S_ISCHR(mode):
            raise ImageError(f"{self._path} is no device", expected="a camera of Video4Linux, such as /dev/video0")
        yield from decoded(self._input)
