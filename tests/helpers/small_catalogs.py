"""Small catalogs for tests: noisy drawn images in every kind of source, and a simulated encoder."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet
from numpy.typing import NDArray
from PIL import Image

from edgeq.catalog.build import Progress, build_catalog
from edgeq.catalog.layout import Catalog
from edgeq.catalog.sources import open_sources

BUNDLE = "a" * 64
SIDE = 8
DIMENSION = 16
SHARD = 5
BATCH = 3


class SimulatedEncoder:
    """No network: 8 x 8 colours, projected at random. Equal images give equal vectors, others others."""

    def __init__(self, log: Path | None = None) -> None:
        self._matrix = np.random.default_rng(7).normal(size=(3 * SIDE * SIDE, DIMENSION)).astype(np.float32)
        self._log = log
        self.batches: list[int] = []

    def preprocess(self, image: Image.Image) -> NDArray[np.float32]:
        """Float32 [3, 8, 8]."""
        pixels = np.asarray(image.resize((SIDE, SIDE)), np.float32) / 255 - 0.5
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def embed(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Float32 [n, 16]."""
        self.batches.append(len(pixels))
        if self._log is not None:
            with self._log.open("a") as file:
                file.write(f"{len(pixels)}\n")
        vectors: NDArray[np.float32] = pixels.reshape(len(pixels), -1) @ self._matrix
        return vectors


def picture(number: int) -> bytes:
    """A noisy PNG, another one for each number."""
    noise = np.random.default_rng(number).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def files(count: int, first: int = 0) -> dict[str, bytes]:
    """Names and contents: images, each with a caption, every other with JSON."""
    made: dict[str, bytes] = {}
    for number in range(first, first + count):
        made[f"{number:04d}.json"] = json.dumps({"url": f"u{number}", "score": number / 4, "width": 1}).encode()
        made[f"{number:04d}.png"] = picture(number)
        made[f"{number:04d}.txt"] = f"picture {number}\n".encode()
        if number % 2:
            del made[f"{number:04d}.json"]
    return made


def folder(root: Path, contents: dict[str, bytes]) -> Path:
    for name, data in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def zipped(path: Path, contents: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return path


def tarred(path: Path, contents: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in contents.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1_700_000_000
            archive.addfile(info, io.BytesIO(data))
    return path


def build(
    paths: Sequence[Path] | Path,
    directory: Path,
    *,
    encoder: SimulatedEncoder | None = None,
    bundle: str = BUNDLE,
    shard_size: int = SHARD,
    shards: range | None = None,
    verify: bool = False,
    most_damaged: float = 0.05,
    progress: Progress | None = None,
) -> Catalog | None:
    """A catalog of small shards and batches."""
    with open_sources([paths] if isinstance(paths, Path) else paths) as sources:
        return build_catalog(
            encoder or SimulatedEncoder(),
            sources,
            directory,
            bundle_digest=bundle,
            shard_size=shard_size,
            batch=BATCH,
            workers=2,
            shards=shards,
            verify=verify,
            most_damaged=most_damaged,
            progress=progress,
        )


def contents(directory: Path) -> dict[str, bytes]:
    """What a catalog shows to readers: every file that is not a lock, by its name."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.parent.name != "locks"
    }


def image_paths(directory: Path) -> list[str]:
    """The image of each row, in order."""
    found: list[str] = []
    for path in sorted((directory / "metadata").glob("*.parquet")):
        found += pyarrow.parquet.read_table(path, columns=["image_path"])["image_path"].to_pylist()
    return found
