"""What a hostile client sends, as makers: a few lines each make what a file would take megabytes for.

Requests are whole as they go over the wire, but for those that go on: of these the beginning, and what is sent again
and again.
"""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from PIL import Image

__all__ = [
    "ENDLESS",
    "IMAGES",
    "JSON_BODIES",
    "Endless",
    "chat_about",
    "data_uri",
    "huge_png",
    "json_request",
    "long_conversation",
    "many_scans",
    "request_head",
    "talk",
]

CHAT: Final = "/v1/chat/completions"
MIB: Final = 1 << 20


@dataclass(frozen=True)
class Endless:
    """A request that goes on and on.

    Attributes:
        begun: how it begins.
        piece: what follows, as often as the other side takes it.
    """

    begun: bytes
    piece: bytes


def request_head(path: str, **headers: str) -> bytes:
    """The header of a POST, whose own headers are given with `_` for `-`."""
    lines = {"Host": "localhost", "Content-Type": "application/json"}
    lines |= {key.replace("_", "-"): value for key, value in headers.items()}
    return "\r\n".join([f"POST {path} HTTP/1.1", *(f"{key}: {value}" for key, value in lines.items()), "", ""]).encode()


def json_request(body: bytes, path: str = CHAT, **headers: str) -> bytes:
    """A whole request with a body."""
    return request_head(path, Content_Length=str(len(body)), **headers) + body


_CHUNKED: Final = request_head(CHAT, Transfer_Encoding="chunked")

ENDLESS: Final[Mapping[str, Endless]] = {
    "trailers": Endless(_CHUNKED + b"2\r\n{}\r\n0\r\n", b"X-Trailer: " + b"x" * 4000 + b"\r\n"),
    "one trailer": Endless(_CHUNKED + b"2\r\n{}\r\n0\r\nX-Trailer: ", b"x" * 4096),
    "name of a trailer": Endless(_CHUNKED + b"2\r\n{}\r\n0\r\n", b"x" * 4096),
    "chunk extension": Endless(_CHUNKED + b"2;a=", b"x" * 4096),
    "chunk extensions": Endless(_CHUNKED, b"1;a=" + b"x" * 200 + b"\r\n \r\n"),
    "chunks of a byte": Endless(_CHUNKED, b"1\r\n \r\n" * 500),
    "header": Endless(request_head(CHAT)[:-2] + b"X-Long: ", b"x" * 4096),
    "headers": Endless(request_head(CHAT)[:-2], b"X-Many: x\r\n" * 300),
    "path": Endless(b"GET /", b"x" * 4096),
    "empty lines": Endless(b"", b"\r\n" * 2000),
    "blanks": Endless(_CHUNKED, b"1000\r\n" + b" " * 4096 + b"\r\n"),
}
"""Without a token each of them must end in a refusal, whatever more is sent."""


def talk(text: str = "what is it?", **more: Any) -> dict[str, Any]:
    """A chat request as JSON."""
    return {"model": "inspector", "messages": [{"role": "user", "content": text}], **more}


JSON_BODIES: Final[Mapping[str, Callable[[], bytes]]] = {
    "a million numbers for messages": lambda: b'{"model":"m","messages":[' + b"0," * MIB + b"0]}",
    "as many items as are let through": lambda: b'{"model":"m","messages":[' + b"0," * 19_000 + b"0]}",
    "as many keys as are let through": lambda: json.dumps({f"k{n}": 0 for n in range(19_000)}).encode(),
    "217,000 keys": lambda: json.dumps({f"k{n}": 0 for n in range(217_000)}).encode(),
    "metadata of 217,000 keys": lambda: json.dumps(talk(metadata={f"k{n}": "v" for n in range(217_000)})).encode(),
    "a million empty objects": lambda: b"[" + b"{}," * MIB + b"{}]",
    "a million empty texts": lambda: b"[" + b'"",' * MIB + b'""]',
    "100,000 arrays within each other": lambda: b"[" * 100_000 + b"]" * 100_000,
    "100,000 objects within each other": lambda: b'{"a":' * 100_000 + b"0" + b"}" * 100_000,
    "a number of 2 million digits": lambda: b'{"seed":' + b"9" * 2 * MIB + b"}",
    "a key of 20 MiB": lambda: b'{"' + b"k" * (20 * MIB) + b'":0}',
    "a text of 20 MiB": lambda: json.dumps(talk("word " * (4 * MIB))).encode(),
    "escapes": lambda: b'{"model":"' + b'\\"' * (4 * MIB) + b'"}',
    "escaped characters": lambda: b'{"model":"' + b"\\u0041" * MIB + b'"}',
    "no JSON at all": lambda: bytes(20 * MIB),
}
"""Bodies that cost far more than they weigh, where they are parsed before they are looked at."""


def long_conversation(model: str) -> bytes:
    """A body of 63 messages with 90,000 characters each: 5.7 million, for a context of a few hundred tokens."""
    turns = [{"role": ("user", "assistant")[number % 2], "content": "a b" * 30_000} for number in range(63)]
    return json.dumps({"model": model, "messages": turns}).encode()


def chat_about(image: bytes, media: str = "image/png") -> bytes:
    """The body of a question about a picture."""
    parts = [{"type": "image_url", "image_url": {"url": data_uri(image, media)}}, {"type": "text", "text": "what?"}]
    return json.dumps({"model": "inspector", "messages": [{"role": "user", "content": parts}]}).encode()


def data_uri(image: bytes, media: str = "image/png") -> str:
    """A picture as a request has it."""
    return f"data:{media};base64,{base64.b64encode(image).decode()}"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def huge_png(width: int, height: int, *, bits: int = 8, colour: int = 0, before: bytes = b"") -> bytes:
    """A whole PNG of one colour: all of its pixels in few bytes.

    Args:
        width, height: in pixels.
        bits: of a sample.
        colour: PNG's type: 0 grey, 2 RGB, 6 RGBA.
        before: chunks in front of the pixels.
    """
    row = bytes(1 + (width * bits * {0: 1, 2: 3, 6: 4}[colour] + 7) // 8)
    packer = zlib.compressobj(1)
    at_once = max(1, MIB // len(row))
    pieces = [packer.compress(row * min(at_once, height - done)) for done in range(0, height, at_once)]
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    data = _chunk(b"IDAT", b"".join(pieces) + packer.flush())
    return b"\x89PNG\r\n\x1a\n" + head + before + data + _chunk(b"IEND", b"")


def many_scans(scans: int, size: tuple[int, int] = (256, 256)) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert("RGB").save(file, "JPEG", progressive=True)
    whole = file.getvalue()
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * (scans - whole.count(b"\xff\xda") + 1) + whole[-2:]


def _run_length_bmp() -> bytes:
    """6,000 x 6,000 pixels in runs, which Pillow decodes in Python."""
    side = 6000
    palette = bytes(1024)
    runs = (b"\xff\0" * (side // 255) + bytes([side % 255, 0]) + b"\0\0") * side + b"\0\1"
    start = 54 + len(palette)
    head = struct.pack("<2sIHHI", b"BM", start + len(runs), 0, 0, start)
    return head + struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(runs), 0, 0, 256, 0) + palette + runs


def _many_frames() -> bytes:
    file = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), (n % 2 * 255, n, 0)) for n in range(200)]
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:])
    return file.getvalue()


IMAGES: Final[Mapping[str, tuple[str, Callable[[], bytes]]]] = {
    "a strip of 1 x 50 million": ("image/png", lambda: huge_png(1, 50_000_000, bits=1)),
    "a strip of 50 million x 1": ("image/png", lambda: huge_png(50_000_000, 1, bits=1)),
    "a strip of 100 x 30,000": ("image/png", lambda: huge_png(100, 30_000)),
    "50 million pixels of RGBA, 16 bit": ("image/png", lambda: huge_png(7071, 7071, bits=16, colour=6)),
    "1,000 scans": ("image/jpeg", lambda: many_scans(1000)),
    "90 scans of 16 million pixels": ("image/jpeg", lambda: many_scans(90, (4000, 4000))),
    "a million segments": ("image/jpeg", lambda: b"\xff\xd8" + b"\xff\xe5\0\2" * MIB),
    "a million chunks": ("image/png", lambda: huge_png(8, 8, before=_chunk(b"juNk", b"") * MIB)),
    "200 frames": ("image/webp", _many_frames),
    "36 million pixels of run lengths": ("image/bmp", _run_length_bmp),
}
"""Media types and files that cost far more than they weigh, where they are decoded before they are looked at."""
