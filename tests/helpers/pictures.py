"""Pictures for tests: drawn ones in class folders, damaged ones, a header that lies, and choices from real zips."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

COLOURS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40)}


def draw_pictures(folder: Path, each: int = 8, *, side: int = 20, seed: int = 0) -> Path:
    """`each` noisy pictures of every colour, in a folder named after it: red/red-000.jpg, ..."""
    rng = np.random.default_rng(seed)
    for label, colour in COLOURS.items():
        (folder / label).mkdir(parents=True)
        for index in range(each):
            shade = np.array(colour) * rng.uniform(0.6, 1.2) + rng.normal(0, 25, (side, side, 3))
            picture = Image.fromarray(np.clip(shade, 0, 255).astype(np.uint8))
            picture.save(folder / label / f"{label}-{index:03d}.jpg", quality=90)
    return folder


def zip_folder(folder: Path, path: Path) -> Path:
    """Every file below `folder`, in a zip."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder).as_posix())
    return path


def cut_short(file: Path) -> None:
    """Keep the first half of a file, as a broken copy does."""
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


def png_header(path: Path, width: int, height: int) -> Path:
    """A PNG of 70 bytes that says it has `width` x `height` pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 64)), (b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks))
    return path


def choose(source: Path, path: Path, each: int) -> Path:
    """A zip with `each` images of every folder of the zip `source`, evenly spaced by name."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(path, "w") as chosen:
        for names in _by_folder(archive.namelist()):
            for name in names[:: max(len(names) // each, 1)][:each]:
                chosen.writestr(name, archive.read(name))
    return path


def _by_folder(names: Iterable[str]) -> list[list[str]]:
    folders: dict[str, list[str]] = {}
    for name in sorted(names):
        if PurePosixPath(name).suffix.lower() in (".jpg", ".jpeg", ".png"):
            folders.setdefault(PurePosixPath(name).parent.name, []).append(name)
    return list(folders.values())


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
