"""Images in .npy and .npz files: whole numbers 0..255, [n, H, W, 3], [n, 3, H, W], [n, H, W] or one image alone.

Classes are those of an array beside them in an .npz file (`edgeq.model.images.stores.array_labels`). A header is read
and bounded before anything behind it; objects, which NumPy would unpickle, are never loaded.
"""

from __future__ import annotations

import io
import re
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeq.errors import ImageError
from edgeq.files import open_plain
from edgeq.model.images.decode import MAX_PIXELS
from edgeq.model.images.stores.array_labels import class_names, label_key

__all__ = ["ARRAY_SUFFIXES", "Arrays"]

ARRAY_SUFFIXES: Final = frozenset({".npy", ".npz"})

_MAX_IMAGES: Final = 2_000_000
_MAX_BYTES: Final = 2 << 30
"""Of an array that is inside an .npz, and so is read as a whole; an .npy file is mapped."""
_EXPECTED: Final = "uint8 of 0..255: [images, height, width, 3], [images, 3, height, width] or [images, height, width]"
_SPLIT: Final = re.compile(r"(?:^|[_.-])(train|test|val|valid|validation)(?:$|[_.-])", re.IGNORECASE)


class Arrays:
    """The images of one file; safe from several threads.

    Args:
        path: of an .npy or .npz file.

    Raises:
        ImageError: it is none, is cut short, or holds no images.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._loaded: dict[str, NDArray[np.uint8]] = {}
        self._load: dict[str, Callable[[], NDArray[np.uint8]]] = {}
        self._places: dict[str, tuple[str, int]] = {}
        self._labels: dict[str, list[str | None]] = {}
        try:
            shapes = self._open_npz(path) if path.suffix.lower() == ".npz" else self._open_npy(path)
        except (OSError, ValueError, EOFError, SyntaxError, zipfile.BadZipFile) as error:
            raise ImageError(
                f"{path} cannot be read: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
                expected=_EXPECTED,
                causes=("the file was cut short while it was copied", "it holds Python objects, which are not loaded"),
            ) from error
        for key, shape in shapes.items():
            for index in range(_count(shape)):
                self._places[f"{_folder(key, len(shapes))}{index:08d}.bmp"] = (key, index)

    def names(self) -> tuple[str, ...]:
        """A name for each image, by its place."""
        return tuple(sorted(self._places))

    def label(self, name: str) -> str | None:
        """The class of an image; None where none is said."""
        key, index = self._places[name]
        return self._labels[key][index] if key in self._labels else None

    def read(self, name: str) -> bytes:
        """One image as a BMP file; raises ImageError."""
        if name not in self._places:
            raise ImageError(f"{name} is not there")
        key, index = self._places[name]
        with self._lock:
            if key not in self._loaded:
                try:
                    self._loaded[key] = self._load[key]()
                except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
                    raise ImageError(f"{name} cannot be read: {error}") from error
            pixels = _image(self._loaded[key], index)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "BMP")
        return buffer.getvalue()

    def head(self, name: str, count: int) -> bytes:
        """Its first bytes, at most `count`; raises ImageError."""
        return self.read(name)[:count]

    def _open_npy(self, path: Path) -> dict[str, tuple[int, ...]]:
        with open_plain(path) as file:
            shape, dtype = _header(file)
        _check(path.name, shape, dtype, path)
        self._load[""] = lambda: np.load(path, mmap_mode="r", allow_pickle=False)
        self._loaded[""] = self._load[""]()  # raises where the file is shorter than its header says
        return {"": shape}

    def _open_npz(self, path: Path) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {}
        others: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                key = member.filename.removesuffix(".npy")
                with archive.open(member) as file:
                    shape, dtype = _header(file)  # type: ignore[arg-type]
                if dtype == np.uint8 and len(shape) in (3, 4) and _is_picture(shape):
                    _check(key, shape, dtype, path)
                    if int(np.prod(shape, dtype=object)) > _MAX_BYTES or member.file_size > _MAX_BYTES + 1024:
                        raise ImageError(
                            f"{path}: {key} is larger than {_MAX_BYTES:,} bytes", next_step="save it as an .npy file"
                        )
                    found[key] = shape
                    self._load[key] = self._member(path, member.filename, shape)
                else:
                    others[key] = shape, dtype
        if not found:
            named = ", ".join(f"{key}: {dtype} {list(shape)}" for key, (shape, dtype) in others.items())
            raise ImageError(f"{path} has no images; found: {named or 'nothing'}", expected=_EXPECTED)
        if len(found) > 1 and not all(_SPLIT.search(key) for key in found):
            raise ImageError(
                f"{path} has several arrays of images: {', '.join(sorted(found))}",
                expected="one, or one for each split",
            )
        for key, shape in found.items():
            if (labels := label_key(key, _count(shape), others)) is not None:
                self._labels[key] = class_names(_read_member(path, f"{labels}.npy", others[labels][0]))
        return found

    @staticmethod
    def _member(path: Path, name: str, shape: tuple[int, ...]) -> Callable[[], NDArray[np.uint8]]:
        def load() -> NDArray[np.uint8]:
            pixels: NDArray[np.uint8] = _read_member(path, name, shape)
            return pixels

        return load


def _read_member(path: Path, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """One array of an .npz file; raises ValueError where it has another shape than it had."""
    with zipfile.ZipFile(path) as archive, archive.open(name) as file:
        array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    if array.shape != shape:
        raise ValueError(f"{name} was changed since it was opened")
    return array


def _header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of the array that begins here."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype


def _check(name: str, shape: tuple[int, ...], dtype: np.dtype[Any], path: Path) -> None:
    if dtype != np.uint8 or not _is_picture(shape):
        raise ImageError(f"{path}: {name} is {dtype} {list(shape)}", expected=_EXPECTED)
    height, width = _size(shape)
    if not 0 < height * width <= MAX_PIXELS or _count(shape) > _MAX_IMAGES:
        raise ImageError(
            f"{path}: {name} has {_count(shape):,} images of {width} x {height} pixels",
            expected=f"at most {_MAX_IMAGES:,} images of at most {MAX_PIXELS:,} pixels",
        )


def _is_picture(shape: tuple[int, ...]) -> bool:
    return len(shape) in (2, 3) or (len(shape) == 4 and (shape[3] in (1, 3) or shape[1] in (1, 3)))


def _is_single(shape: tuple[int, ...]) -> bool:
    """[H, W], or [H, W, 3]: an image alone."""
    return len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))


def _count(shape: tuple[int, ...]) -> int:
    return 1 if _is_single(shape) else shape[0]


def _size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width."""
    if _is_single(shape):
        return shape[0], shape[1]
    if len(shape) == 3 or shape[3] in (1, 3):
        return shape[1], shape[2]
    return shape[2], shape[3]


def _image(array: NDArray[np.uint8], index: int) -> NDArray[np.uint8]:
    """One image, uint8 [H, W] or [H, W, 3]."""
    one = np.asarray(array if _is_single(array.shape) else array[index])
    if one.ndim == 3 and one.shape[2] not in (1, 3):
        one = one.transpose(1, 2, 0)
    return np.ascontiguousarray(one[:, :, 0] if one.ndim == 3 and one.shape[2] == 1 else one)


def _folder(key: str, keys: int) -> str:
    """`train/` for `x_train`, where an archive has several."""
    match = _SPLIT.search(key)
    return f"{match[1].lower()}/" if keys > 1 and match else ""
