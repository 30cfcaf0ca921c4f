"""A YOLO tree: `images/`, `labels/` with a .txt for each image, `data.yaml` with the names of the classes.

A line is `class x y width height`, centre and size in shares of the image; or a class and the corners of a polygon, of
which the box around it is taken, as Ultralytics does. Where `data.yaml` has a `kpt_shape`, such as `[17, 3]`, keypoints
stand behind the box: x, y in shares, and how visible each is. An image without a file has no object.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ImageError, InputError
from edgeq.model.heads.seen import MOST_KEYPOINTS
from edgeq.model.images.image_set import ImageItem, ImageSet
from edgeq.model.images.stores.base import ImageStore
from edgeq.quality.tasks.detection.objects import LabelledObjects, Objects
from edgeq.quality.tasks.detection.similarity import AREA_OF_BOX
from edgeq.yaml_text import parse_yaml

__all__ = ["DATA", "is_yolo", "read_yolo"]

DATA: Final = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")

_MAX_BYTES: Final = 1 << 20
_MAX_LINES: Final = 10_000
_SLACK: Final = 0.01
"""A share may be so far below 0 or above 1: rounding."""
_SPLITS: Final = ("val", "valid", "validation", "test", "train")
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
    form = _Form(len(named), *_kpt_shape(data, where or ""))
    truth = {item.name: _objects(store, names, item, images, form) for item in chosen.items}
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


def _kpt_shape(data: Mapping[str, Any], where: str) -> tuple[int, int]:
    """Keypoints of an object and numbers of each; 0 and 0 where none are told."""
    shape = data.get("kpt_shape")
    if shape is None:
        return 0, 0
    good = isinstance(shape, list) and len(shape) == 2 and all(type(one) is int for one in shape)
    if not good or not 1 <= shape[0] <= MOST_KEYPOINTS or shape[1] not in (2, 3):
        raise InputError(f"{where}: kpt_shape is {str(shape)[:80]}", expected="keypoints and 2 or 3, such as [17, 3]")
    return shape[0], shape[1]


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


@dataclass(frozen=True)
class _Form:
    """Of a line.

    Attributes:
        classes: that there are.
        keypoints: of each object, behind its box; 0 for none.
        values: numbers of each keypoint, 2 or 3.
    """

    classes: int
    keypoints: int
    values: int

    @property
    def numbers(self) -> int:
        """Of a line with a box."""
        return _LINE + self.keypoints * self.values

    @property
    def text(self) -> str:
        """For messages."""
        more = f", and {self.keypoints} x {self.values} numbers of keypoints" if self.keypoints else ""
        return f"a class, and centre x, centre y, width, height in shares of the image{more}, such as 0 0.5 0.5 0.2 0.1"


def _objects(store: ImageStore, names: frozenset[str], item: ImageItem, images: ImageSet, form: _Form) -> Objects:
    place = _label_file(item.name, names)
    height, width = images.size(item)
    rows: NDArray[np.float64] = np.zeros((0, form.numbers)) if place is None else _rows(store.read(place), place, form)
    centre, half = rows[:, 1:3], rows[:, 3:_LINE] / 2
    edges = np.concatenate([centre - half, centre + half], axis=1)
    boxes = edges.clip(0.0, 1.0) * np.array([width, height, width, height], np.float64)
    return Objects(
        height=height,
        width=width,
        boxes=boxes,
        categories=rows[:, 0].astype(np.int64),
        crowd=np.zeros(len(rows), np.bool_),
        area=(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) * (AREA_OF_BOX if form.keypoints else 1.0),
        keypoints=_points(rows[:, _LINE:], form, width, height) if form.keypoints else None,
    )


def _points(numbers: NDArray[np.float64], form: _Form, width: int, height: int) -> NDArray[np.float64]:
    """Keypoints of a file's lines, float64 [n, K, 3]; as in Ultralytics, those at 0, 0 are not labelled."""
    points = numbers.reshape(-1, form.keypoints, form.values)
    seen = points[..., 2] if form.values > 2 else np.any(points != 0.0, axis=-1).astype(np.float64)
    return np.concatenate([points[..., :2] * (width, height), seen[..., None]], axis=-1)


def _label_file(name: str, names: frozenset[str]) -> str | None:
    """`labels/...` for `images/...`, the last of such folders; else the file beside the image."""
    path = PurePosixPath(name).with_suffix(".txt")
    parts = list(path.parts)
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[-2::-1].index("images")
        parts[last] = "labels"
    return next((one for one in ("/".join(parts), path.as_posix()) if one in names), None)


def _rows(data: bytes, where: str, form: _Form) -> NDArray[np.float64]:
    """Class, centre x, centre y, width, height, and keypoints, of each line, float64 [n, 5 + P]."""
    if len(data) > _MAX_BYTES or data.count(b"\n") > _MAX_LINES:
        raise InputError(f"{where} is too long", expected=f"at most {_MAX_LINES:,} lines and {_MAX_BYTES:,} bytes")
    lines = enumerate(data.decode("utf-8", "replace").splitlines(), start=1)
    found = [_row(line, f"{where}, line {number}", form) for number, line in lines if line.strip()]
    return np.array(found, np.float64).reshape(-1, form.numbers)


def _row(line: str, where: str, form: _Form) -> tuple[float, ...]:
    try:
        values = [float(part) for part in line.split()]
    except ValueError as error:
        raise InputError(f"{where}: {line[:80]!r} is no row of numbers", expected=form.text) from error
    polygon = not form.keypoints and len(values) >= _POLYGON and len(values) % 2 == 1
    if len(values) != form.numbers and not polygon:
        raise InputError(f"{where}: {len(values)} numbers", expected=form.text)
    if not all(map(math.isfinite, values)) or values[0] != int(values[0]) or not 0 <= values[0] < form.classes:
        raise InputError(f"{where}: {line.split()[0][:80]} is none of {form.classes} classes", expected=form.text)
    visible = values[_LINE + 2 :: 3] if form.values > 2 else ()
    shares = [value for place, value in enumerate(values[1:], 1) if form.values < 3 or place < _LINE or place % 3 != 1]
    if not all(-_SLACK <= value <= 1 + _SLACK for value in shares) or any(value < 0 for value in visible):
        raise InputError(f"{where}: {line[:80]!r} leaves the image", expected=form.text)
    if not polygon:
        return tuple(values)
    across, down = values[1::2], values[2::2]
    left, right, top, bottom = min(across), max(across), min(down), max(down)
    return values[0], (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
