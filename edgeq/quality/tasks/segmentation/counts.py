"""Pixels counted by class: for each image those of what is right, of what was said, and of both. mIoU is made of sums.

The standard error of a drop of mIoU is that of a bootstrap over images, paired: both networks see the same images drawn
again, as often as both. The random numbers are the same each time.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["PixelCounts", "paired_error"]

_DRAWS: Final = 200


class PixelCounts:
    """Counts of one network, image by image.

    Args:
        classes: how many there are.
    """

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._images: list[NDArray[np.int64]] = []

    def add(self, truth: NDArray[np.int64], said: NDArray[np.int64]) -> None:
        """Count one image.

        Args:
            truth: class of each pixel that is judged, int64 [n].
            said: likewise, by the network.
        """
        kinds = (truth[truth == said], truth, said)
        self._images.append(np.stack([np.bincount(one, minlength=self._classes) for one in kinds]))

    def __len__(self) -> int:
        """How many images were counted."""
        return len(self._images)

    @property
    def stacked(self) -> NDArray[np.int64]:
        """Both, right and said, int64 [images, 3, classes]."""
        return np.stack(self._images)

    def mean_iou(self) -> float:
        """Mean over the classes that occur of intersection over union, in percent."""
        return float(_mean_iou(self.stacked.sum(axis=0)[None])[0])

    def accuracy(self) -> float:
        """Pixels that are right, in percent."""
        both, right, _ = self.stacked.sum(axis=(0, 2))
        return 100.0 * float(both) / float(right)


def paired_error(reference: PixelCounts, candidate: PixelCounts) -> float | None:
    """Standard error of the difference of mIoU in points, over the choice of images; None for a single one."""
    images = len(reference)
    if images < 2:
        return None
    weights = np.random.default_rng(0).multinomial(images, np.full(images, 1.0 / images), size=_DRAWS)
    drawn = [np.einsum("di,ikc->dkc", weights, one.stacked) for one in (reference, candidate)]
    drops = _mean_iou(drawn[0]) - _mean_iou(drawn[1])
    drops = drops[~np.isnan(drops)]
    return float(drops.std(ddof=1)) if len(drops) > 1 else None


def _mean_iou(sums: NDArray[np.int64]) -> NDArray[np.float64]:
    """Percent, float64 [n], of counts [n, 3, classes]; NaN where nothing is right to say."""
    both, right, said = (sums[:, kind].astype(np.float64) for kind in range(3))
    there = right > 0
    shares = np.where(there, both / np.maximum(right + said - both, 1.0), 0.0)
    count = there.sum(axis=1)
    means: NDArray[np.float64] = np.where(count > 0, 100.0 * shares.sum(axis=1) / np.maximum(count, 1), np.nan)
    return means
