"""FFmpeg by PyAV: containers opened within bounds, packets to frames, frames to upright RGB images.

PyAV is imported here alone, and only when something is opened.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

from edgeq.errors import ImageError
from edgeq.frames.address import without_secrets
from edgeq.frames.base import MAX_FRAME_PIXELS, Frame

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

__all__ = ["FILM_FORMATS", "Input", "decoded", "load_av", "opened"]

FILM_FORMATS: Final = (
    "asf,avi,flv,gif,h264,hevc,ivf,m4v,matroska,mjpeg,mov,mpeg,mpegts,mpegvideo,mpjpeg,mxf,ogg,yuv4mpegpipe"
)
"""What is taken for a film or a stream. No playlist (HLS, DASH, concat): it names other files and hosts to open."""

_MOST_DAMAGED: Final = 1000
"""Packets in a row that cannot be decoded: then nothing will come any more."""

_SAMPLE_ASPECT: Final = 4.0
"""Pixels that claim to be further from square than so much lie."""

_TURNS: Final = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}


@cache
def load_av() -> Any:
    """PyAV, which says nothing by itself: FFmpeg's messages name addresses with their passwords.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    import av

    av.logging.set_level(None)
    return av


@dataclass
class Input:
    """What FFmpeg is to open.

    Attributes:
        address: for FFmpeg.
        name: for people.
        protocols: that may be spoken, with commas between them.
        format: of the container; None to find out.
        options: of FFmpeg, beside those that hold for all.
        live: what comes is decoded without waiting for more.
        open_s, read_s: seconds after which it is given up; None waits.
        damaged: pieces that could not be decoded.
    """

    address: Any
    name: str
    protocols: str
    format: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    live: bool = False
    open_s: float | None = None
    read_s: float | None = None
    damaged: int = 0


def opened(given: Input) -> InputContainer:
    """A container whose first video stream can be decoded; its size was looked at.

    Raises:
        ImageError: it cannot be opened, has no video, or frames that are too large. What may pass by itself, such as a
            connection that is refused, is marked so.
    """
    av = load_av()
    options = {
        "format_whitelist": FILM_FORMATS if given.format is None else given.format,
        "protocol_whitelist": given.protocols,
        "max_pixels": _max_coded(),
        **given.options,
    }
    if not given.protocols:
        del options["protocol_whitelist"]
    try:
        container = av.open(
            given.address, format=given.format, options=options, timeout=(given.open_s, given.read_s), mode="r"
        )
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise _cannot_be_opened(given, error) from None  # PyAV's error names the address, and its password
    try:
        _prepare(container, given)
    except BaseException:
        container.close()
        raise
    return container  # type: ignore[no-any-return]


def decoded(given: Input) -> Generator[Frame, None, None]:
    """The frames of an input, opened here and closed at the end.

    A packet that cannot be decoded is counted and passed over, as is a frame that FFmpeg calls corrupt, or one that is
    larger than the first said.

    Raises:
        ImageError: it cannot be opened, nothing in it can be decoded, or a stream ended or fell silent.
    """
    av = load_av()
    with closing(opened(given)) as container:
        stream = container.streams.video[0]
        in_a_row = 0
        packets = _Packets(container, stream, given)
        while True:
            try:
                frames = next(packets, None)
            except av.error.FFmpegError:
                given.damaged, in_a_row = given.damaged + 1, in_a_row + 1
                if in_a_row > _MOST_DAMAGED:
                    raise ImageError(
                        f"{given.name}: nothing in it can be decoded any more", passing=given.live
                    ) from None
                continue
            if frames is None:
                return
            for frame in frames:
                if frame.is_corrupt or frame.width * frame.height > MAX_FRAME_PIXELS:
                    given.damaged += 1
                    continue
                in_a_row = 0
                yield Frame(None if given.live else frame.time, time.monotonic(), _converter(frame, stream, given.name))


class _Packets:
    """Frames packet by packet; an error of decoding leaves it usable, one of reading ends it."""

    def __init__(self, container: InputContainer, stream: VideoStream, given: Input) -> None:
        self._packets = container.demux(stream)
        self._given = given

    def __iter__(self) -> _Packets:
        return self

    def __next__(self) -> list[VideoFrame]:
        av = load_av()
        try:
            packet = next(self._packets)
        except av.error.FFmpegError as error:
            raise _cannot_be_read(self._given, error) from None
        return list(packet.decode())


def _prepare(container: InputContainer, given: Input) -> None:
    """Look at the video stream, and set how it is decoded."""
    if not container.streams.video:
        raise ImageError(f"{given.name} has no video", expected="a film, or a stream, with pictures in it")
    stream = container.streams.video[0]
    context = stream.codec_context
    if context is None:
        raise ImageError(f"{given.name}: FFmpeg has no decoder for its video")
    if context.width * context.height > MAX_FRAME_PIXELS:
        raise ImageError(
            f"{given.name}: its frames are too large: {context.width} x {context.height} pixels",
            expected=f"at most {MAX_FRAME_PIXELS:,} pixels, 8K",
        )
    context.options = {"max_pixels": _max_coded()}
    # Threads that decode one frame each hold back as many frames as there are threads.
    context.thread_type = "SLICE" if given.live else "AUTO"


def _max_coded() -> str:
    """Pixels of a frame for FFmpeg, which counts what it pads as well; what is above the bound is left out later."""
    return str(2 * MAX_FRAME_PIXELS)


def _converter(frame: VideoFrame, stream: VideoStream, name: str) -> Callable[[], Image.Image]:
    """What makes an image of a frame, later."""
    av = load_av()
    aspect = float(stream.sample_aspect_ratio or 1)

    def convert() -> Image.Image:
        try:
            image: Image.Image = frame.to_image()  # type: ignore[no-untyped-call]
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise ImageError(f"{name}: a frame of {frame.format.name} cannot be converted: {error}") from error
        if aspect != 1 and 1 / _SAMPLE_ASPECT <= aspect <= _SAMPLE_ASPECT:
            image = _with_square_pixels(image, aspect)
        turn = _TURNS.get(frame.rotation % 360)
        return image if turn is None else image.transpose(turn)

    return convert


def _with_square_pixels(image: Image.Image, aspect: float) -> Image.Image:
    """An image whose pixels are `aspect` times as wide as they are high, scaled so that it does not grow."""
    width, height = image.size
    if aspect > 1:
        return image.resize((width, max(round(height / aspect), 1)))
    return image.resize((max(round(width * aspect), 1), height))


def _cannot_be_opened(given: Input, error: Exception) -> ImageError:
    number = getattr(error, "errno", None)
    text = _told(error, given.open_s)
    if given.live:
        return ImageError(
            f"{given.name} cannot be opened: {text}",
            causes=("it is not there, or not yet", "its path, user or password is wrong", "it is no stream of video"),
            passing=not _is_refused(error),
        )
    return ImageError(
        f"{given.name} cannot be opened as a film: {text}",
        expected="a file of one of these formats: " + FILM_FORMATS.replace(",", ", "),
        causes=("it is damaged, cut short, or no film",) if number is None or number not in (2, 13) else (),
        passing=isinstance(error, FileNotFoundError),
    )


def _cannot_be_read(given: Input, error: Exception) -> ImageError:
    return ImageError(f"{given.name} was lost: {_told(error, given.read_s)}", passing=given.live)


def _told(error: Exception, seconds: float | None) -> str:
    """What FFmpeg says; that the time was over it calls an exit that was asked for."""
    if type(error).__name__ == "ExitError" and seconds is not None:
        return f"nothing came for {seconds:g} s"
    return without_secrets(str(getattr(error, "strerror", None) or error))


def _is_refused(error: Exception) -> bool:
    """Whether the other side said no, as it will again: 400, 401, 403, 404, or no video at all."""
    return type(error).__name__ in (
        "HTTPBadRequestError",
        "HTTPUnauthorizedError",
        "HTTPForbiddenError",
        "HTTPNotFoundError",
        "HTTPOtherClientError",
        "ProtocolNotFoundError",
        "DemuxerNotFoundError",
    )
