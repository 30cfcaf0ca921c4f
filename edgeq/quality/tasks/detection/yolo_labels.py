"""A YOLO tree: `images/`, `labels/` with a .txt for each image, `data.yaml` with the names of the classes.

A line is `class x y width height`, centre and size in shares of the image; or a class and the corners of a polygon, of
which the box around it is taken, as Ultralytics does. An image without a file has no object.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ImageError, InputError
from edgeq.model.images.image_set import ImageItem, ImageSet
from edgeq.model.images.store import ImageStore
from edgeq.quality.tasks.detection.objects import LabelledObjects, Objects
from edgeq.yaml_text import parse_yaml

__all__ = ["DATA", "is_yolo", "read_yolo"]

DATA: Final = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")

_MAX_BYTES: Final = 1 << 20
_MAX_LINES: Final = 10_000
_SLACK: Final = 0.01
"""A share may be so far below 0 or above 1: rounding."""
_SPLITS: Final = ("val", "valid", "validation", "test", "train")
_FORM: Final = "a class, and centre x, centre y, width, height in shares of the image, such as 0 0.5 0.5 0.2 0.1"
_LINE: Final = 5
_POLYGON: Final = 7


def is_yolo(names: Sequence[str]) -> bool:
    """Whether files are those of a YOLO tree: a description of the data, or labels beside images."""
    return any(name in DATA for name in names) or any(
        "labels" in PurePosixPath(name).parts[:-1] and name.endswith(".txt") for name in names
    )


def read_yolo(store: ImageStore, images: ImageSet, labels: Sequence[str] | None) -> LabelledObjects:
    """Images with their objects.

    Args:
        store: with all files.
        images: those in it.
        labels: the model's class names, which name the classes where no file does; None where its config has none.

    Raises:
        InputError: a file is malformed; the error names it, and the line.
        ImageError: the images are of several splits, cannot be read, or a class is none of the model's.
    """
    names = frozenset(store.names())
    where = next((name for name in DATA if name in names), None)
    data = {} if where is None else _description(store.read(where), where)
    classes = _classes(data, where or "")
    chosen = _one_split(images, data)
    if classes is None and labels is None:
        raise InputError(
            f"{images.path} has no {DATA[0]}, and the model no names for its classes",
            expected=f"a {DATA[0]} with the names of the classes",
        )
    named = tuple(classes if classes is not None else labels or ())
    truth = {item.name: _objects(store, names, item, images, len(named)) for item in chosen.items}
    return LabelledObjects.checked(chosen, truth, named, labels)


def _description(data: bytes, where: str) -> Mapping[str, Any]:
    try:
        found = parse_yaml(data, _MAX_BYTES)
    except ValueError as error:
        raise InputError(f"{where} cannot be read: {' '.join(str(error).split())[:200]}", expected="YAML") from error
    if not isinstance(found, dict):
        raise InputError(f"{where} holds no description of a data set", expected="YAML with names, train and val")
    return found


def _classes(data: Mapping[str, Any], where: str) -> tuple[str, ...] | None:
    """Names of the classes in their order; None where there are none."""
    names = data.get("names")
    if names is None:
        return None
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str | int) for name in names):
        raise InputError(f"{where}: names is no list", expected="names: [bolt, crack], or 0: bolt and so on below it")
    found = tuple(map(str, names))
    if len(set(found)) < len(found):
        raise InputError(f"{where}: names has a name twice")
    return found


def _one_split(images: ImageSet, data: Mapping[str, Any]) -> ImageSet:
    """The images that `val` names; else those of the one split that there is."""
    said = data.get("val")
    if isinstance(said, str):
        parts = [part for part in PurePosixPath(said.replace("\\", "/")).parts if part not in (".", "..", "/")]
        for start in range(len(parts)):  # a path from elsewhere: what lies below some folder of it
            prefix = "/".join(parts[start:]) + "/"
            below = [item for item in images.items if item.name.startswith(prefix)]
            if below:
                kept = set(below)
                return images.without([item for item in images.items if item not in kept])
    splits = {part for item in images.items for part in PurePosixPath(item.name).parts[:-1] if part in _SPLITS}
    if len(splits) > 1:
        raise ImageError(
            f"the images in {images.path} are of several splits: {', '.join(sorted(splits))}",
            expected="one of them",
            next_step=f"write into {DATA[0]} which is meant, such as `val: images/val`",
        )
    return images


def _objects(store: ImageStore, names: frozenset[str], item: ImageItem, images: ImageSet, classes: int) -> Objects:
    place = _label_file(item.name, names)
    height, width = images.size(item)
    rows: NDArray[np.float64] = np.zeros((0, _LINE)) if place is None else _rows(store.read(place), place, classes)
    edges = np.concatenate([rows[:, 1:3] - rows[:, 3:] / 2, rows[:, 1:3] + rows[:, 3:] / 2], axis=1)
    boxes = edges.clip(0.0, 1.0) * np.array([width, height, width, height], np.float64)
    return Objects(
        height=height,
        width=width,
        boxes=boxes,
        categories=rows[:, 0].astype(np.int64),
        crowd=np.zeros(len(rows), np.bool_),
        area=(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
    )


def _label_file(name: str, names: frozenset[str]) -> str | None:
    """`labels/...` for `images/...`, the last of such folders; else the file beside the image."""
    path = PurePosixPath(name).with_suffix(".txt")
    parts = list(path.parts)
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[-2::-1].index("images")
        parts[last] = "labels"
    return next((one for one in ("/".join(parts), path.as_posix()) if one in names), None)


def _rows(data: bytes, where: str, classes: int) -> NDArray[np.float64]:
    """Class, centre x, centre y, width, height of each line, float64 [n, 5]."""
    if len(data) > _MAX_BYTES or data.count(b"\n") > _MAX_LINES:
        raise InputError(f"{where} is too long", expected=f"at most {_MAX_LINES:,} lines and {_MAX_BYTES:,} bytes")
    lines = enumerate(data.decode("utf-8", "replace").splitlines(), start=1)
    found = [_row(line, f"{where}, line {number}", classes) for number, line in lines if line.strip()]
    return np.array(found, np.float64).reshape(-1, _LINE)


def _row(line: str, where: str, classes: int) -> tuple[float, ...]:
    try:
        values = [float(part) for part in line.split()]
    except ValueError as error:
        raise InputError(f"{where}: {line[:80]!r} is no row of numbers", expected=_FORM) from error
    polygon = len(values) >= _POLYGON and len(values) % 2 == 1
    if len(values) != _LINE and not polygon:
        raise InputError(f"{where}: {len(values)} numbers", expected=_FORM)
    if not all(map(math.isfinite, values)) or values[0] != int(values[0]) or not 0 <= values[0] < classes:
        raise InputError(f"{where}: {line.split()[0][:80]} is none of {classes} classes", expected=_FORM)
    if not all(-_SLACK <= value <= 1 + _SLACK for value in values[1:]):
        raise InputError(f"{where}: {line[:80]!r} leaves the image", expected=_FORM)
    if not polygon:
        return tuple(values)
    across, down = values[1::2], values[2::2]
    left, right, top, bottom = min(across), max(across), min(down), max(down)
    return values[0], (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
