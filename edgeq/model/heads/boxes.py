"""Boxes, their overlap (IoU), and non-maximum suppression (NMS) class by class."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.model.images.placement import Placement

__all__ = ["Detections", "corners", "overlap", "suppress"]

_EDGES = 4


@dataclass(frozen=True)
class Detections:
    """What is found on one image, the likeliest first.

    Attributes:
        boxes: left, top, right, bottom in pixels, float32 [n, 4].
        scores: 0..1, float32 [n].
        classes: numbers of classes, int64 [n].
        keypoints: x, y in pixels and visibility (0..1) of each keypoint, float32 [n, K, 3]; None where there are none.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]
    keypoints: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        """How many there are."""
        return len(self.scores)

    def above(self, score: float) -> Detections:
        """Those with this score or more."""
        return self.only(self.scores >= score)

    def only(self, which: NDArray[Any]) -> Detections:
        """Some of them.

        Args:
            which: bool [n], or places, int64 [k].
        """
        keypoints = None if self.keypoints is None else self.keypoints[which]
        return Detections(self.boxes[which], self.scores[which], self.classes[which], keypoints)

    def in_image(self, placement: Placement) -> Detections:
        """Those of a network's input, in pixels of the image that lies in it."""
        keypoints = None if self.keypoints is None else self.keypoints.copy()
        if keypoints is not None:
            keypoints[..., :2] = placement.points(keypoints[..., :2])
        return replace(self, boxes=placement.boxes(self.boxes), keypoints=keypoints)


def corners(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Centre x, centre y, width, height [..., 4] as left, top, right, bottom, float32 [..., 4]."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return np.concatenate([centre - half, centre + half], axis=-1)


def overlap(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> NDArray[np.float64]:
    """Intersection over union of each pair, float64 [n, m]; 0 for boxes without area.

    Args:
        ours: left, top, right, bottom, float32 [n, 4].
        theirs: likewise, [m, 4].
    """
    a, b = ours.astype(np.float64).reshape(-1, 1, _EDGES), theirs.astype(np.float64).reshape(1, -1, _EDGES)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    common = sides.clip(min=0.0).prod(axis=-1)
    union = _area(a) + _area(b) - common
    shares: NDArray[np.float64] = np.where(union > 0.0, common / np.where(union > 0.0, union, 1.0), 0.0)
    return shares


def suppress(found: Detections, iou: float, most: int) -> Detections:
    """Non-maximum suppression, class by class: what overlaps a likelier detection of its class is left out.

    Args:
        found: the likeliest first; n x n overlaps are computed at once.
        iou: overlap above which the less likely one goes.
        most: so many are kept at most.
    """
    rivals = overlap(found.boxes, found.boxes) > iou
    rivals &= found.classes[:, None] == found.classes[None, :]
    alive = np.ones(len(found), np.bool_)
    kept: list[int] = []
    for place in range(len(found)):
        if alive[place]:
            kept.append(place)
            if len(kept) == most:
                break
            alive &= ~rivals[place]
    return found.only(np.array(kept, np.int64))


def _area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    sides = (boxes[..., 2:] - boxes[..., :2]).clip(min=0.0)
    area: NDArray[np.float64] = sides[..., 0] * sides[..., 1]
    return area
