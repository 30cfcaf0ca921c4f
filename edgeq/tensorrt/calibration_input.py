"""What calibration is given: batches that are compared with the shapes, and a cache in TensorRT's text form."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ArtifactError, CalibrationError, InputError
from edgeq.files import open_plain

__all__ = ["MAX_CACHE_BYTES", "Batch", "batch_size", "count_images", "read_cache"]

Batch = Mapping[str, NDArray[np.float32]]
"""Input -> float32 values, first axis the images."""

MAX_CACHE_BYTES: Final = 16 * 1024 * 1024
"""A larger file is no calibration cache."""

_HEADER: Final = re.compile(rb"TRT-[0-9]+-EntropyCalibration2\n")


def batch_size(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The number of images that all shapes begin with; raises InputError where they differ or an axis is below 1."""
    sizes = {shape[:1] for shape in shapes.values()}
    if len(sizes) != 1 or () in sizes or min(min(shape) for shape in shapes.values()) < 1:
        raise InputError(
            f"calibration batches cannot have the shapes {dict(shapes)}",
            expected="the OPT shape of each input, every axis at least 1, and the same number of images in all",
        )
    return sizes.pop()[0]


def count_images(batch: Batch, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """How many images a batch holds; CalibrationError unless it fits the shapes but for their number."""
    counts = {_images_of(name, batch.get(name), shape) for name, shape in shapes.items()}
    if len(counts) != 1:
        raise CalibrationError(f"the inputs of a calibration batch hold different numbers of images: {sorted(counts)}")
    return counts.pop()


def _images_of(name: str, array: NDArray[np.float32] | None, shape: tuple[int, ...]) -> int:
    """How many images one input has values of."""
    if array is None:
        raise CalibrationError(f"a calibration batch has no values for input {name}")
    if array.dtype != np.float32:
        raise CalibrationError(f"calibration values of input {name} are {array.dtype}", expected="float32")
    if array.ndim != len(shape) or array.shape[1:] != shape[1:] or not 1 <= array.shape[0] <= shape[0]:
        raise CalibrationError(
            f"a calibration batch of input {name} has shape {array.shape}",
            expected=f"the OPT shape {shape}; only the last batch may have fewer images",
        )
    if not np.isfinite(array).all():
        raise CalibrationError(f"calibration values of input {name} are not all finite")
    return int(array.shape[0])


def read_cache(cache: bytes | Path | None) -> bytes | None:
    """The bytes to offer, None where there is no file yet; raises ArtifactError for what is no calibration cache."""
    if cache is None or (isinstance(cache, Path) and not cache.exists()):
        return None
    data = _read_file(cache) if isinstance(cache, Path) else cache
    if len(data) > MAX_CACHE_BYTES or not _HEADER.match(data):
        raise ArtifactError(
            f"{cache if isinstance(cache, Path) else 'the cache'} is no calibration cache of IInt8EntropyCalibrator2",
            expected="a first line such as TRT-100300-EntropyCalibration2",
            next_step="remove it, and TensorRT calibrates again",
        )
    return data


def _read_file(path: Path) -> bytes:
    try:
        with open_plain(path) as file:
            return file.read(MAX_CACHE_BYTES + 1)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror or error}") from error
