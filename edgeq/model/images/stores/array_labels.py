"""The array of classes that lies beside an array of images in an .npz file: `labels`, `y_train`, `test_labels`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_LABEL_BYTES", "class_names", "label_key"]

MAX_LABEL_BYTES: Final = 64 << 20

_WORDS: Final = re.compile(r"[_.\-/ ]+")
_SPLITS: Final = frozenset({"test", "train", "val", "valid", "validation"})
_LABELS: Final = frozenset({"class", "classes", "fine", "label", "labels", "target", "targets", "y"})
_KINDS: Final = "iuU"


def label_key(images: str, count: int, others: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> str | None:
    """The name of the array that says the classes of `images`; None where there is none, or more than one.

    Args:
        images: name of the array of images.
        count: how many they are.
        others: shape and type of each other array.
    """
    split = _words(images) & _SPLITS
    found = [
        key
        for key, (shape, dtype) in others.items()
        if shape in ((count,), (count, 1))
        and dtype.kind in _KINDS
        and _words(key) & _SPLITS == split
        and frozenset() < _words(key) - _SPLITS <= _LABELS
        and math.prod(shape) * dtype.itemsize <= MAX_LABEL_BYTES
    ]
    return found[0] if len(found) == 1 else None


def class_names(values: NDArray[Any]) -> list[str | None]:
    """The class of each image, as text; None for -1, which stands for no class.

    Args:
        values: whole numbers or text, [n] or [n, 1].
    """
    return [None if value == -1 else str(value) for value in values.reshape(-1).tolist()]


def _words(key: str) -> frozenset[str]:
    return frozenset(_WORDS.split(key.lower()))
