"""COCO's `instances_*.json`: images, annotations with a box each, categories; `person_keypoints_*.json` likewise."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Annotated, Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeq.errors import ImageError, InputError
from edgeq.files import MAX_JSON_BYTES
from edgeq.model.heads.seen import MOST_KEYPOINTS
from edgeq.model.images.image_set import ImageItem, ImageSet
from edgeq.quality.tasks.detection.objects import LabelledObjects, Objects
from edgeq.quality.tasks.detection.similarity import AREA_OF_BOX

__all__ = ["is_coco", "read_coco"]

_FORM: Final = '{"images": [...], "annotations": [...], "categories": [...]}, as COCO\'s instances_val2017.json'
_HEAD: Final = 4096
_SHOWN: Final = 3

_Side = Annotated[int, Field(ge=1, le=1_000_000)]


class _Form(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class _Image(_Form):
    id: int | str
    file_name: Annotated[str, Field(min_length=1, max_length=4096)]
    width: _Side
    height: _Side


class _Annotation(_Form):
    image_id: int | str
    category_id: int
    bbox: tuple[float, float, Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]]
    iscrowd: int = 0
    area: Annotated[float, Field(ge=0)] | None = None
    keypoints: Annotated[tuple[float, ...], Field(max_length=3 * MOST_KEYPOINTS)] = ()


class _Category(_Form):
    id: int
    name: Annotated[str, Field(min_length=1, max_length=1000)]


class _Coco(_Form):
    images: tuple[_Image, ...]
    annotations: tuple[_Annotation, ...]
    categories: tuple[_Category, ...]


def is_coco(data: bytes) -> bool:
    """Whether a JSON file may be COCO's: an object that has `annotations` and `images`."""
    return data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") and b'"annotations"' in data and b'"images"' in data


def read_coco(data: bytes, where: str, images: ImageSet, labels: Sequence[str] | None) -> LabelledObjects:
    """The images that the file names, with their objects.

    Args:
        data: of the file.
        where: the file, for messages.
        images: of the folder or zip; those that the file does not name are left out.
        labels: the model's class names; None where its config has none.

    Raises:
        InputError: the file is too long, no JSON, or not of COCO's form.
        ImageError: an image is not there, or has another size; a category is no class of the model.
    """
    coco = _parsed(data, where)
    _check_ids(coco, where)
    items = _find(coco.images, images, where)
    truth = _truth(coco, items, where)
    for entry in coco.images:
        _check_size(entry, items[entry.id], images, where)
    named = set(items.values())
    chosen = images.without([item for item in images.items if item not in named])
    ordered = sorted(coco.categories, key=lambda category: category.id)
    return LabelledObjects.checked(chosen, truth, [category.name for category in ordered], labels)


def _parsed(data: bytes, where: str) -> _Coco:
    if len(data) > MAX_JSON_BYTES:
        raise InputError(
            f"{where} is too long for annotations",
            expected=f"at most {MAX_JSON_BYTES:,} bytes",
            next_step="judge by fewer images",
        )
    try:
        return _Coco.model_validate(json.loads(data.decode("utf-8-sig")))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"{where}: {place}: {first['msg']}", expected=_FORM) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not valid JSON: {str(error)[:200]}", expected=_FORM) from error


def _check_ids(coco: _Coco, where: str) -> None:
    """Raise InputError where an id or a name is there twice, or an annotation is of nothing that is listed."""
    for what, ids in (
        ("images have the id", [image.id for image in coco.images]),
        ("images have the file_name", [image.file_name for image in coco.images]),
        ("categories have the id", [category.id for category in coco.categories]),
        ("categories have the name", [category.name for category in coco.categories]),
    ):
        twice = next((one for one, count in Counter(ids).items() if count > 1), None)
        if twice is not None:
            raise InputError(f"{where}: several {what} {twice}", expected="each once")
    pictures, categories = {image.id for image in coco.images}, {category.id for category in coco.categories}
    for number, annotation in enumerate(coco.annotations):
        if annotation.image_id not in pictures or annotation.category_id not in categories:
            raise InputError(
                f"{where}: annotations.{number} is of image {annotation.image_id} and category "
                f"{annotation.category_id}, which are not both listed",
                expected="an image and a category of the same file",
            )


def _find(entries: Sequence[_Image], images: ImageSet, where: str) -> dict[int | str, ImageItem]:
    """Each entry's image, by the entry's id: the file of that name, or the only one below a folder with that name."""
    ends: dict[str, list[ImageItem]] = defaultdict(list)
    for item in images.items:
        ends[PurePosixPath(item.name).name].append(item)
    found: dict[int | str, ImageItem] = {}
    missing: list[str] = []
    for entry in entries:
        name = PurePosixPath(entry.file_name.replace("\\", "/"))
        same = [item for item in ends[name.name] if f"/{item.name}".endswith(f"/{name.as_posix()}")]
        exact = [item for item in same if item.name == name.as_posix()]
        if len(exact or same) > 1:
            raise ImageError(
                f"{where} names {entry.file_name}, and there are several: {', '.join(i.name for i in same[:_SHOWN])}",
                next_step=f"give the folder of those that are meant, with {PurePosixPath(where).name} in it",
            )
        if same:
            found[entry.id] = (exact or same)[0]
        else:
            missing.append(entry.file_name)
    if missing:
        raise ImageError(
            f"{len(missing)} of the {len(entries)} images that {where} names are not in {images.path}, the first is "
            f"{missing[0]}",
            expected="every image below the folder that the file is in, or the folder above its `annotations`",
        )
    twice = next((item.name for item, count in Counter(found.values()).items() if count > 1), None)
    if twice is not None:
        raise ImageError(f"{where} names {twice} in two ways", expected="each image once")
    return found


def _check_size(entry: _Image, item: ImageItem, images: ImageSet, where: str) -> None:
    height, width = images.size(item)
    if (height, width) != (entry.height, entry.width):
        raise ImageError(
            f"{item.name} has {width} x {height} pixels, and {entry.width} x {entry.height} in {where}",
            causes=("the images were resized, and the annotations were not", "it is another image of that name"),
        )


def _truth(coco: _Coco, items: Mapping[int | str, ImageItem], where: str) -> dict[str, Objects]:
    places = {category.id: place for place, category in enumerate(sorted(coco.categories, key=lambda one: one.id))}
    by_image: dict[int | str, list[_Annotation]] = defaultdict(list)
    sizes = {image.id: image for image in coco.images}
    for number, annotation in enumerate(coco.annotations):
        left, top, width, height = annotation.bbox
        image = sizes[annotation.image_id]
        if left > image.width or top > image.height or left + width < 0 or top + height < 0:
            raise InputError(
                f"{where}: annotations.{number}.bbox lies outside {image.file_name}",
                expected="left, top, width and height in pixels of the image",
            )
        by_image[annotation.image_id].append(annotation)
    count = _keypoints(coco, where)
    truth = {}
    for image in coco.images:
        found = by_image[image.id]
        edges = np.array([one.bbox for one in found], np.float64).reshape(-1, 4)
        share = AREA_OF_BOX if count else 1.0
        area = [share * one.bbox[2] * one.bbox[3] if one.area is None else one.area for one in found]
        points = [one.keypoints or (0.0,) * (3 * count) for one in found]
        truth[items[image.id].name] = Objects(
            height=image.height,
            width=image.width,
            boxes=np.concatenate([edges[:, :2], edges[:, :2] + edges[:, 2:]], axis=1),
            categories=np.array([places[one.category_id] for one in found], np.int64),
            crowd=np.array([bool(one.iscrowd) for one in found], np.bool_),
            area=np.array(area, np.float64),
            keypoints=np.array(points, np.float64).reshape(-1, count, 3) if count else None,
        )
    return truth


def _keypoints(coco: _Coco, where: str) -> int:
    """How many each object has; 0 where none has any."""
    told = {len(one.keypoints): number for number, one in enumerate(coco.annotations) if one.keypoints}
    wrong = next((number for length, number in told.items() if length % 3), None)
    if wrong is not None or len(told) > 1:
        number = max(told.values()) if wrong is None else wrong
        raise InputError(
            f"{where}: annotations.{number}.keypoints has {len(coco.annotations[number].keypoints)} numbers",
            expected="x, y and visibility of each keypoint, as many for every object",
        )
    return next(iter(told), 0) // 3
