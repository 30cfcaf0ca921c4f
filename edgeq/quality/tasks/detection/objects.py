"""What is right for a detector: the objects on each image, as a labelled set tells them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ImageError, ModelError
from edgeq.model.images.image_set import ImageSet
from edgeq.quality.tasks.base import Examples
from edgeq.quality.tasks.classification import label_indices

__all__ = ["MAX_IMAGES", "MAX_OBJECTS", "LabelledObjects", "Objects"]

MAX_IMAGES: Final = 20_000
"""Of a labelled set: the detections of both networks on all of them are kept."""

MAX_OBJECTS: Final = 2_000_000
"""On all images together."""

_SHOWN: Final = 5


@dataclass(frozen=True)
class Objects:
    """The objects on one image.

    Attributes:
        height, width: of the image, in pixels.
        boxes: left, top, right, bottom in pixels of the image, float64 [n, 4].
        categories: number of each object's category in `LabelledObjects.categories`, int64 [n].
        crowd: whether a box stands for many objects, which need not be told apart, bool [n].
        area: in square pixels, of the object's outline where that is known, float64 [n].
        keypoints: x, y in pixels of the image, and 0 for a keypoint that is not labelled, float64 [n, K, 3]; None where
            the set has none.
    """

    height: int
    width: int
    boxes: NDArray[np.float64]
    categories: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    area: NDArray[np.float64]
    keypoints: NDArray[np.float64] | None = None

    def counted(self, by_keypoints: bool) -> NDArray[np.bool_]:
        """Those that must be found, bool [n]: no crowd, and by their keypoints only those that have one."""
        if self.keypoints is None or not by_keypoints:
            return ~self.crowd
        labelled: NDArray[np.bool_] = ~self.crowd & (self.keypoints[..., 2] > 0).any(axis=1)
        return labelled

    def __len__(self) -> int:
        """How many objects there are."""
        return len(self.boxes)


@dataclass(frozen=True)
class LabelledObjects(Examples[Objects]):
    """Images with their objects.

    Attributes:
        categories: names in the set's own order.
    """

    categories: tuple[str, ...] = ()

    @property
    def keypoints(self) -> int:
        """Of each object; 0 where none are told."""
        first = next(iter(self.truth.values()), None)
        return 0 if first is None or first.keypoints is None else first.keypoints.shape[1]

    @classmethod
    def checked(
        cls, images: ImageSet, truth: Mapping[str, Objects], categories: Sequence[str], labels: Sequence[str] | None
    ) -> LabelledObjects:
        """A set, once it can be used.

        Args:
            images: all of them.
            truth: by an image's name.
            categories: names in the set's own order.
            labels: the model's class names; None where its config has none.

        Raises:
            ImageError: it is too large, has no object, or a category that the model does not know.
        """
        objects = sum(map(len, truth.values()))
        if len(images) > MAX_IMAGES or objects > MAX_OBJECTS:
            raise ImageError(
                f"{images.path} has {len(images):,} labelled images with {objects:,} objects: too many to judge by",
                expected=f"at most {MAX_IMAGES:,} images and {MAX_OBJECTS:,} objects",
                next_step="judge by fewer images",
            )
        if not objects:
            raise ImageError(f"there is no object on any of the {len(images)} images in {images.path}")
        found = cls(images, truth, tuple(categories))
        if labels is not None:
            found.numbers(labels, len(labels))
        return found

    def numbers(self, labels: Sequence[str] | None, classes: int) -> NDArray[np.int64]:
        """The model's class for each category, -1 for those of which there is no object.

        Args:
            labels: the model's class names; None where its config has none: then the categories are its classes.
            classes: of the model.

        Returns:
            int64 [categories].

        Raises:
            ImageError: a category is no class of the model.
            ModelError: the categories must be its classes, and are not as many.
        """
        seen = np.zeros(len(self.categories), np.bool_)
        for objects in self.truth.values():
            seen[objects.categories] = True
        if labels is None:
            if len(self.categories) > classes:
                raise ModelError(
                    f"{self.images.path} has {len(self.categories)} categories, the network has {classes} classes and "
                    "no names for them",
                    next_step="give the model a config.json with id2label",
                )
            return np.where(seen, np.arange(len(self.categories)), -1)
        named = [name for name, there in zip(self.categories, seen, strict=True) if there]
        indices = label_indices(named, labels, len(labels), what="categories")
        return np.array([indices.get(name, -1) for name in self.categories], np.int64)
