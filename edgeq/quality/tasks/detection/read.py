"""A labelled set of a detector: COCO's JSON with its images, or a YOLO tree; in a folder or a zip."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from edgeq.errors import InputError, shell_word
from edgeq.files import MAX_JSON_BYTES, open_plain
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.stores.base import ImageStore
from edgeq.model.images.stores.kinds import open_store
from edgeq.quality.tasks.detection.coco_labels import is_coco, read_coco
from edgeq.quality.tasks.detection.objects import LabelledObjects
from edgeq.quality.tasks.detection.yolo_labels import DATA, is_yolo, read_yolo

__all__ = ["read_objects"]

_SHOWN: Final = 5
_ABOVE: Final = ("annotations", "labels")
"""Folders that hold a COCO file, and not the images."""


def read_objects(path: Path, labels: Sequence[str] | None) -> LabelledObjects:
    """Read a labelled set, and check it as a whole.

    Args:
        path: COCO's JSON file; or a folder or zip with one such file, or with a YOLO tree.
        labels: the model's class names; None where its config has none.

    Raises:
        InputError: it is neither, or malformed; the error names the file, and the line where there is one.
    """
    path = Path(path)
    if path.suffix.lower() == ".json" and not path.is_dir():
        root = path.parent.parent if path.parent.name in _ABOVE else path.parent
        return read_coco(_bytes(path), str(path), ImageSet.open(root), labels)
    store, images = open_store(path), ImageSet.open(path)
    names = store.names()
    found = [name for name in names if _may_be_coco(name) and is_coco(store.read(name))]
    if len(found) > 1:
        raise InputError(
            f"{path} has several files of annotations: {', '.join(found[:_SHOWN])}",
            next_step=f"give one of them: --eval {shell_word(path / found[0])}",
        )
    if found:
        return read_coco(store.read(found[0]), str(path / found[0]), images, labels)
    if is_yolo(names):
        return read_yolo(store, images, labels)
    raise InputError(
        f"{path} has no labels of objects; found: {_some(store)}",
        expected=f"COCO's instances_*.json beside its images, or images/, labels/ and {DATA[0]} as YOLO has them",
    )


def _may_be_coco(name: str) -> bool:
    """A JSON file at the top, or in a folder of annotations."""
    path = PurePosixPath(name)
    return path.suffix.lower() == ".json" and (len(path.parts) == 1 or path.parent.name in _ABOVE)


def _bytes(path: Path) -> bytes:
    try:
        with open_plain(path) as file:
            return file.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def _some(store: ImageStore) -> str:
    names = store.names()
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
