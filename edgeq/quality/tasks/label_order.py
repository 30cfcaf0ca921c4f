"""Do a network's classes stand in another order than its labels say?

Each image counts once in a table of the class that FP32 names and the class that is right. Orders that are known are
tried on all images: reversed, by name, numbers as text, moved by a few places. Any other is read off one half of the
images, class by class, and counted on the other half, so that what fits by luck does not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

__all__ = ["LabelOrder", "OrderTable"]

MOST_CLASSES: Final = 2048
"""Of more classes no table is kept."""

_FEWEST_IMAGES: Final = 30
_GAIN: Final = 30.0
"""Points of top-1 that another order must win; what is right for half of the images is in order."""
_HALF: Final = 50.0

Order = NDArray[np.int64]
"""For each logit the class that it stands for, int64 [classes]; -1 where that is not known."""


class LabelOrder(BaseModel):
    """An order in which FP32 is right far more often.

    Attributes:
        name: in words, such as `reversed`.
        top1: percent of the images that are right in it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    top1: float


class OrderTable:
    """Counts images while they are judged.

    Args:
        labels: the model's class names in the order of its logits; None where its config has none.
    """

    def __init__(self, labels: Sequence[str] | None) -> None:
        self._labels = labels
        self._halves: NDArray[np.int64] | None = None
        self._images = 0

    def add(self, named: NDArray[np.int64], right: NDArray[np.int64], classes: int) -> None:
        """Count images.

        Args:
            named: the class that FP32 names, int64 [n].
            right: the class that is right, int64 [n].
            classes: how many there are.
        """
        if classes > MOST_CLASSES:
            return
        if self._halves is None:
            self._halves = np.zeros((2, classes, classes), np.int64)
        half = (self._images + np.arange(len(named))) % 2
        np.add.at(self._halves, (half, named, right), 1)
        self._images += len(named)

    def likely(self) -> LabelOrder | None:
        """The order that is right most often; None where none is right far more often than the one that is given."""
        if self._halves is None or self._images < _FEWEST_IMAGES:
            return None
        even, odd = self._halves
        table = even + odd
        given = _right(table, np.arange(len(table)))
        if given > _HALF:
            return None
        found = [LabelOrder(name=name, top1=_right(table, order)) for name, order in self._known(table)]
        found.append(LabelOrder(name="another", top1=_learned(even, odd)))
        best = max(found, key=lambda order: order.top1)
        return best if best.top1 >= max(given + _GAIN, _HALF) else None

    def _known(self, table: NDArray[np.int64]) -> Iterator[tuple[str, Order]]:
        places = np.arange(len(table))
        yield "reversed", places[::-1]
        labels = self._labels
        if labels is not None and len(labels) == len(table):
            yield "sorted by name", np.array(sorted(range(len(table)), key=labels.__getitem__))
        as_text = np.array(sorted(places, key=str))
        yield "sorted as text (0, 1, 10, 11, ... 2)", as_text
        yield "sorted as numbers, where they were sorted as text", np.argsort(as_text)
        named, right = np.nonzero(table)
        moved = np.bincount((right - named) % len(table), weights=table[named, right], minlength=len(table))
        by = int(moved.argmax())
        yield f"moved by {by} {'place' if by == 1 else 'places'}", (places + by) % len(table)


def _right(table: NDArray[np.int64], order: Order) -> float:
    """Percent of the images that are right in an order."""
    known = order >= 0
    return 100.0 * float(table[known.nonzero()[0], order[known]].sum()) / max(int(table.sum()), 1)


def _learned(even: NDArray[np.int64], odd: NDArray[np.int64]) -> float:
    """Percent that are right in the order that the other half of the images gives."""
    right = sum(_right(seen, _read_off(other)) * float(seen.sum()) for seen, other in ((even, odd), (odd, even)))
    return right / max(float(even.sum() + odd.sum()), 1.0)


def _read_off(table: NDArray[np.int64]) -> Order:
    """One class for each logit and one logit for each class, the most frequent pairs first."""
    order, taken = np.full(len(table), -1, np.int64), np.zeros(len(table), np.bool_)
    named, right = np.nonzero(table)
    for place in np.argsort(-table[named, right], kind="stable"):
        if order[named[place]] < 0 and not taken[right[place]]:
            order[named[place]], taken[right[place]] = right[place], True
    return order
