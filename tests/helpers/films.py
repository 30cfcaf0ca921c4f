"""Films drawn here, and servers of streams in this process: RTSP with MPEG-TS, and motion JPEG over HTTP."""

from __future__ import annotations

import base64
import io
import itertools
import re
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from PIL import Image

av = pytest.importorskip("av", reason="films and cameras need the extra `camera`")

__all__ = ["MjpegServer", "RtspServer", "draw_film", "moving_square", "patched_matrix", "served"]

STOP_S = 10.0

QUICK = {"preset": "ultrafast", "tune": "zerolatency", "g": "5"}
"""No frame of H.264 is held back, and one may begin at each fifth."""


def moving_square(number: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Grey with a white square that goes round; the upper left corner stays red."""
    width, height = size
    pixels = np.full((height, width, 3), 90, np.uint8)
    side = height // 4
    left = (number * 2) % (width - side)
    pixels[height // 2 : height // 2 + side, left : left + side] = 255
    pixels[: height // 4, : width // 4] = (255, 0, 0)
    return Image.fromarray(pixels)


def draw_film(
    file: Path | IO[bytes] | io.RawIOBase,
    frames: int | Iterable[Image.Image] = 30,
    *,
    rate: int = 30,
    codec: str = "mpeg4",
    pixels: str = "yuv420p",
    format: str | None = None,
    at: Callable[[int], int] | None = None,
    options: dict[str, str] | None = None,
) -> None:
    """Write a film.

    Args:
        file: to write.
        frames: images, or how many of a square that moves.
        rate: frames a second.
        codec, pixels, format, options: as FFmpeg names them; format None goes by the name.
        at: timestamp of each frame in milliseconds; None for even ones.
    """
    images = map(moving_square, range(frames)) if isinstance(frames, int) else frames
    name = str(file) if isinstance(file, Path) else file
    with av.open(name, "w", format=format) as container:
        stream: Any = None
        for number, image in enumerate(images):
            if stream is None:
                stream = container.add_stream(codec, rate=rate, options=options or {})
                stream.width, stream.height, stream.pix_fmt = *image.size, pixels
                stream.codec_context.time_base = Fraction(1, 1000)
            frame = av.VideoFrame.from_image(image)
            frame.pts = number * 1000 // rate if at is None else at(number)
            frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        if stream is not None:
            container.mux(stream.encode(None))


def patched_matrix(film: Path, matrix: tuple[int, ...]) -> None:
    """Put a display matrix (ISO/IEC 14496-12, 8.3.2) into an MP4 with one track."""
    data = bytearray(film.read_bytes())
    # behind the name of the box: version and flags, five numbers of 32 bits, 8 bytes reserved, four numbers of 16 bits
    place = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
    data[place : place + 36] = struct.pack(">9i", *matrix)
    film.write_bytes(data)


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, handler: type[socketserver.BaseRequestHandler], port: int) -> None:
        super().__init__(("127.0.0.1", port), handler)
        self.stopped = threading.Event()
        self.clients: set[socket.socket] = set()
        self.asked: list[str] = []

    def cut(self) -> None:
        """Close every connection, as a cable that is pulled does in the end."""
        self.stopped.set()
        for client in list(self.clients):
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)


@contextmanager
def served(handler: type[socketserver.BaseRequestHandler], port: int = 0, **attributes: Any) -> Iterator[_Server]:
    """A server in threads of this process, which is cut off at the end.

    Args:
        handler: of a connection.
        port: 0 takes a free one.
        attributes: of the handler.
    """
    server = _Server(type(handler.__name__, (handler,), attributes), port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.cut()
        server.shutdown()
        server.server_close()
        thread.join(STOP_S)


class _Handler(socketserver.StreamRequestHandler):
    server: _Server
    images: Callable[[], Iterator[Image.Image]] = staticmethod(lambda: map(moving_square, itertools.count()))
    rate = 100
    """Frames a second."""

    def setup(self) -> None:
        super().setup()
        self.server.clients.add(self.request)

    def finish(self) -> None:
        self.server.clients.discard(self.request)
        with suppress(OSError):
            super().finish()

    def paced(self) -> Iterator[Image.Image]:
        """Images, each a frame's time after the one before, until the server stops."""
        for image in self.images():
            if self.server.stopped.wait(1 / self.rate):
                return
            yield image


class MjpegServer(_Handler):
    """Motion JPEG over HTTP, as many cameras give it."""

    def handle(self) -> None:
        with suppress(OSError):
            self.server.asked.append(self.rfile.readline().decode().strip())
            while self.rfile.readline().strip():
                pass
            self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n")
            for image in self.paced():
                data = io.BytesIO()
                image.save(data, "JPEG")
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {data.tell()}\r\n\r\n"
                self.wfile.write(head.encode() + data.getvalue() + b"\r\n")


class RtspServer(_Handler):
    """RTSP 1.0 (RFC 2326): MPEG-TS (RFC 2250) in the connection itself, by a Basic login where one is set."""

    login: str | None = None

    def handle(self) -> None:
        with suppress(OSError):
            while (request := self._read()) is not None:
                method, headers = request
                self.server.asked.append(method)
                self._answer(method, headers)
                if method == "PLAY":
                    self._play()
                    return

    def _read(self) -> tuple[str, dict[str, str]] | None:
        line = self.rfile.readline().decode()
        if not line:
            return None
        headers = {}
        while text := self.rfile.readline().decode().strip():
            name, _, value = text.partition(":")
            headers[name.lower()] = value.strip()
        return line.split()[0], headers

    def _answer(self, method: str, headers: dict[str, str]) -> None:
        status, more, body = "200 OK", [f"CSeq: {headers['cseq']}", "Session: 1"], ""
        wanted = None if self.login is None else f"Basic {base64.b64encode(self.login.encode()).decode()}"
        if method != "OPTIONS" and headers.get("authorization") != wanted:
            status, more = "401 Unauthorized", [more[0], 'WWW-Authenticate: Basic realm="camera"']
        elif method == "OPTIONS":
            more.append("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN")
        elif method == "DESCRIBE":
            body = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track\r\n"
            more += ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
        elif method == "SETUP":
            found = re.search(r"interleaved=\d+-\d+", headers["transport"])
            assert found is not None
            more.append(f"Transport: RTP/AVP/TCP;unicast;{found[0]}")
        self.wfile.write("\r\n".join([f"RTSP/1.0 {status}", *more, "", body]).encode())

    def _play(self) -> None:
        """Mux into packets of seven TS packets, each with its RTP header and its frame of the connection."""
        file = _RtpFile(self.wfile)
        images = itertools.takewhile(lambda _image: not file.gone, self.paced())
        draw_film(file, images, codec="libx264", format="mpegts", options=QUICK)


class _RtpFile(io.RawIOBase):
    """A file whose bytes go out as RTP; an odd rest waits for more."""

    def __init__(self, out: Any) -> None:
        self._out, self._rest, self._number = out, b"", 0
        self.gone = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._rest += bytes(data)
        while len(self._rest) >= 188:
            most = min(len(self._rest) // 188, 7) * 188
            piece, self._rest = self._rest[:most], self._rest[most:]
            packet = struct.pack(">BBHII", 0x80, 33, self._number & 0xFFFF, self._number * 300 & 0xFFFFFFFF, 1) + piece
            self._number += 1
            try:
                self._out.write(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
            except OSError:
                self.gone = True
        return len(data)
