"""The files of canaries, read with suspicion: they are compared with, so what they hold must be what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeq.errors import ArtifactError, ImageError, first_line
from edgeq.model.images.decode import decode_image
from edgeq.model.images.stores.base import read_file

__all__ = ["MAX_NUMBERS", "read_array", "read_picture"]

MAX_NUMBERS: Final = 1 << 27
"""The most numbers of one array: ten times the features of a photograph that is cut into 12 tiles."""

_TYPES: Final = (np.dtype("<f2"), np.dtype("<f4"))


def read_picture(path: Path) -> Image.Image:
    """A canary's image, mode RGB.

    Raises:
        ArtifactError: it is missing, damaged, or too large.
    """
    try:
        return decode_image(read_file(path, path.name), path.name)
    except ImageError as error:
        raise ArtifactError(f"the canary {path} cannot be used", causes=(error.what,)) from error


def read_array(path: Path) -> NDArray[np.float32]:
    """A NumPy file of two axes, float16 or float32, as float32 [rows, columns]; nothing in it is unpickled.

    Raises:
        ArtifactError: it is missing, cut short, of another form, has more than MAX_NUMBERS numbers, none, or NaN or
            infinity among them.
    """
    try:
        found: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")  # a length that the file does not have fails
    except Exception as error:  # a header can be wrong in as many ways as Python literals can
        raise ArtifactError(
            f"the canary {path} cannot be used", expected="a NumPy file", causes=(first_line(error),)
        ) from error
    if found.ndim != 2 or found.dtype not in _TYPES or not 0 < found.size <= MAX_NUMBERS:
        raise ArtifactError(
            f"the canary {path} holds {found.dtype} {list(found.shape)}",
            expected=f"two axes, float16 or float32, at most {MAX_NUMBERS:,} numbers",
        )
    values = np.array(found, np.float32)
    if not np.isfinite(values).all():
        raise ArtifactError(f"the canary {path} holds NaN or infinity", expected="what a network gave for an image")
    return values
