"""A pipeline of GStreamer, such as that of a CSI camera on a Jetson: run by `gst-launch-1.0`, read from a pipe.

A process of its own needs no Python binding that fits this Python, uses whatever plugins the system has (NVIDIA's
`nvarguscamerasrc` and `nvv4l2decoder` among them), and can be killed where it hangs. It hands over frames as YUV4MPEG.
"""

from __future__ import annotations

import io
import os
import select
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Final

from edgeq.errors import ImageError, InputError
from edgeq.frames.address import without_secrets
from edgeq.frames.base import Frame, LiveSource
from edgeq.frames.ffmpeg import Input, decoded

__all__ = ["GstreamerSource"]

_LAUNCH: Final = "gst-launch-1.0"
_END: Final = "! videoconvert ! videoscale ! video/x-raw,format=I420,width=[8,16384,8] ! y4menc ! fdsink fd=1"
"""`y4menc` writes rows with what pads them: of a width that is a multiple of 8 there is none. Others are scaled to one,
and back by the shape of pixels, which YUV4MPEG tells."""
_ENDS_S: Final = 2.0
_SHOWN: Final = 300


class GstreamerSource(LiveSource):
    """Frames of a pipeline's last element.

    Args:
        pipeline: as for `gst-launch-1.0`, without a sink; an `appsink` at the end, as OpenCV wants it, is left out.
        timeout: seconds without a frame after which it is given up.

    Raises:
        InputError: the text has no end of a quotation, or GStreamer's tools are not installed.
    """

    def __init__(self, pipeline: str, timeout: float) -> None:
        elements, _mark, sink = pipeline.rpartition("!")
        text = elements if sink.strip().startswith("appsink") else pipeline
        super().__init__(without_secrets(" ".join(text.split())))
        try:
            self._words = shlex.split(text)
        except ValueError as error:
            raise InputError(f"{self._name} is no pipeline: {error}") from error
        if shutil.which(_LAUNCH) is None:
            raise InputError(
                f"{_LAUNCH} is not installed, which runs pipelines",
                next_step="apt-get install gstreamer1.0-tools gstreamer1.0-plugins-good",
            )
        self._timeout = timeout
        self._damaged = 0

    @property
    def damaged(self) -> int:
        """As for `FrameSource.damaged`."""
        return self._damaged

    def frames(self) -> Generator[Frame, None, None]:
        """As for `FrameSource.frames`, of one run of the pipeline.

        Raises:
            ImageError: it did not start, failed or fell silent; with the last that GStreamer said.
        """
        with tempfile.TemporaryFile() as told, self._running(told) as process:
            assert process.stdout is not None
            pipe = _Pipe(process.stdout, self._timeout)
            given = Input(pipe, self._name, "", "yuv4mpegpipe", live=True)
            try:
                yield from decoded(given)
            except ImageError as error:
                if pipe.silent:
                    raise ImageError(f"{self._name}: no frame in {self._timeout:g} s", passing=True) from None
                with suppress(subprocess.TimeoutExpired):  # it may have more to say
                    process.wait(_ENDS_S)
                raise ImageError(_reason(self._name, told) or error.what, passing=True) from None
            finally:
                self._damaged += given.damaged
            reason = _reason(self._name, told)
            if reason:
                raise ImageError(reason, passing=True)

    @contextmanager
    def _running(self, told: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
        """The process, which ends with the block."""
        command = [_LAUNCH, "--quiet", *self._words, *_END.split()]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=told, start_new_session=True
        )
        assert process.stdout is not None
        try:
            yield process
        finally:
            process.stdout.close()
            _end(process)


class _Pipe(io.RawIOBase):
    """A pipe that raises TimeoutError where nothing comes."""

    def __init__(self, file: IO[bytes], timeout: float) -> None:
        self._descriptor = file.fileno()
        self._timeout = timeout
        self.silent = False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        ready, _, _ = select.select([self._descriptor], [], [], self._timeout)
        if not ready:
            self.silent = True
            raise TimeoutError("nothing came")
        return os.read(self._descriptor, max(size, 1))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it as Ctrl-C would, so that a camera is let go; kill it where it does not hear."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(_ENDS_S)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _reason(name: str, told: IO[bytes]) -> str:
    """What GStreamer said of an error; empty where it said nothing of one."""
    told.seek(0)
    lines = told.read(1 << 16).decode(errors="replace").splitlines()
    said = [line for line in lines if "ERROR" in line or "erroneous" in line]
    return without_secrets(f"{name}: {said[0][:_SHOWN]}") if said else ""
