"""A video of the frames that were looked at, each with its own answer, at its own time."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, cast

from PIL import Image, ImageDraw, ImageFont, ImageOps

from edgeq.errors import InputError, OutputError
from edgeq.files import require_new
from edgeq.frames.ffmpeg import load_av

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

__all__ = ["Overlay", "caption"]

_FORMATS: Final = {".mkv": "matroska", ".mp4": "mp4"}
_OPTIONS: Final = {
    "matroska": {"cluster_time_limit": "1000", "flush_packets": "1"},
    "mp4": {"movflags": "frag_every_frame+empty_moov+default_base_moof", "flush_packets": "1"},
}
"""So that what is there can be played, whenever the process ends."""

_WIDEST: Final = 1920
_LINES: Final = 6
_LONGEST: Final = 1000
_MS: Final = Fraction(1, 1000)


class Overlay:
    """A file of H.264 that is made when the first frame comes, and can be played at any moment.

    Args:
        path: that ends in .mkv or .mp4, and must not exist.

    Raises:
        InputError: it ends in something else.
        OutputError: it exists.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix.lower() not in _FORMATS:
            raise InputError(f"{path} does not say what kind of video to write", expected="a name in .mkv or .mp4")
        require_new(path)
        if not path.absolute().parent.is_dir():
            raise OutputError(f"{path} cannot be written: its folder is not there")
        self._av = load_av()
        self._path = path
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._first: float | None = None
        self._last = -1

    def __enter__(self) -> Overlay:
        """The video itself; it is ended with the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self.close()

    def add(self, image: Image.Image, seconds: float) -> None:
        """A frame; one of another size than the first is fitted into that, on black.

        Args:
            image: with what was drawn on it, in mode RGB.
            seconds: of any clock; where it goes back, the frame follows the one before at once.

        Raises:
            OutputError: the disk is full, or the video cannot be written for another reason.
        """
        try:
            stream = self._stream or self._open(image.size)
            size = (stream.width, stream.height)
            frame = self._av.VideoFrame.from_image(image if image.size == size else ImageOps.pad(image, size))
            self._first = seconds if self._first is None else self._first
            self._last = max(self._last + 1, round((seconds - self._first) * 1000))
            frame.pts, frame.time_base = self._last, _MS
            self._write(frame)
        except (self._av.error.FFmpegError, OSError, ValueError) as error:
            raise self._error(error) from None

    def close(self) -> None:
        """End the video; a second time does nothing.

        Raises:
            OutputError: its end cannot be written.
        """
        container, self._container = self._container, None
        if container is None:
            return
        try:
            assert self._stream is not None
            for packet in self._stream.encode(None):
                container.mux(packet)
            container.close()
        except (self._av.error.FFmpegError, OSError, ValueError) as error:
            raise self._error(error) from None
        finally:
            with suppress(self._av.error.FFmpegError, OSError, ValueError):
                container.close()

    def give_up(self) -> None:
        """Close it as it is, after an error."""
        container, self._container = self._container, None
        if container is not None:
            with suppress(self._av.error.FFmpegError, OSError, ValueError):
                container.close()

    def _open(self, size: tuple[int, int]) -> VideoStream:
        """The stream, of an even width and height."""
        name = _FORMATS[self._path.suffix.lower()]
        self._container = self._av.open(f"file:{self._path}", "w", format=name, options=_OPTIONS[name])
        codec = "libx264" if "libx264" in self._av.codecs_available else "mpeg4"
        stream = cast("VideoStream", self._container.add_stream(codec, rate=30))
        scale = min(_WIDEST / max(size), 1)
        stream.width, stream.height = (max(round(side * scale) // 2 * 2, 2) for side in size)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = _MS
        if codec == "libx264":  # no frame is held back
            stream.options = {"preset": "veryfast", "tune": "zerolatency"}
        self._stream = stream
        return stream

    def _write(self, frame: object) -> None:
        assert self._stream is not None
        assert self._container is not None
        for packet in self._stream.encode(frame):  # type: ignore[arg-type]
            self._container.mux(packet)

    def _error(self, error: Exception) -> OutputError:
        return OutputError(f"{self._path} cannot be written: {getattr(error, 'strerror', None) or error}")


def caption(image: Image.Image, lines: list[str]) -> Image.Image:
    """A copy of an image with text at its lower edge, white on a dark ground; long lines are wrapped.

    Args:
        image: in mode RGB.
        lines: of text; of more than fit into six lines the rest is cut.
    """
    drawn = image.copy()
    draw = ImageDraw.Draw(drawn, "RGBA")
    size = max(image.height // 24, 10)
    font = ImageFont.load_default(size)
    height = round(size * 1.3)
    shown = [part for line in lines for part in _wrapped(draw, font, line[:_LONGEST], image.width - size)]
    if len(shown) > _LINES:
        shown[_LINES - 1 :] = [f"{shown[_LINES - 1]} …"]
    top = image.height - height * len(shown) - size // 2
    draw.rectangle((0, top, image.width, image.height), fill=(0, 0, 0, 160))
    for number, line in enumerate(shown):
        draw.text((size // 2, top + size // 4 + number * height), line, fill=(255, 255, 255), font=font)
    return drawn


def _wrapped(
    draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, text: str, width: int
) -> list[str]:
    """A text in lines that are so wide at the most, but for a word that is wider."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and draw.textlength(longer, font=font) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
