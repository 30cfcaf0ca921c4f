"""How near keypoints are: COCO's object keypoint similarity (OKS).

OKS of two objects is the mean over keypoints of exp(-d^2 / (2 s^2 k^2)): d is the distance in pixels, s^2 the object's
area, and k twice a sigma that says how exactly people agree where such a keypoint is
(https://cocodataset.org/#keypoints-eval). For other keypoints than COCO's 17, sigma is 1 / their number, as in
Ultralytics.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["AREA_OF_BOX", "SEEN", "keypoint_similarity", "sigmas"]

AREA_OF_BOX: Final = 0.53
"""Share of its box that an object covers, where nobody says; as in Ultralytics."""

SEEN: Final = 0.5
"""From this visibility on a network says that a keypoint is to be seen."""

_COCO: Final = (26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89)
"""Thousandths, from nose to ankles."""


def sigmas(count: int) -> NDArray[np.float64]:
    """Of so many keypoints, float64 [count]: COCO's where there are 17."""
    return np.array(_COCO) / 1000 if count == len(_COCO) else np.full(count, 1.0 / count)


def keypoint_similarity(
    ours: NDArray[np.float32], theirs: NDArray[np.float32], area: NDArray[np.float64]
) -> NDArray[np.float64]:
    """OKS of each pair, float64 [n], over the keypoints that `ours` says are to be seen; over all where there is none.

    Args:
        ours, theirs: x, y in pixels and visibility, float32 [n, K, 3].
        area: of ours, in square pixels, float64 [n].
    """
    squares = np.square(ours[..., :2].astype(np.float64) - theirs[..., :2]).sum(axis=-1)
    spread = 2.0 * np.square(2.0 * sigmas(ours.shape[1])) * (area[:, None] + np.spacing(1.0))
    seen = ours[..., 2] >= SEEN
    seen[~seen.any(axis=1)] = True
    found: NDArray[np.float64] = (np.exp(-squares / spread) * seen).sum(axis=1) / seen.sum(axis=1)
    return found
