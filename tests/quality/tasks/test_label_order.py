"""Classes in another order than the labels say, on answers written by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeq.quality.tasks.label_order import OrderTable

NAMES = ("zebra", "ant", "bee", "yak", "cat", "dog", "eel", "fox", "gnu", "hen", "owl", "pig")
IMAGES = 600


def answers(*, wrong: float = 0.2) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What a good network sees, and what is right: 12 classes, 50 images each, of which a fifth are seen as any."""
    rng = np.random.default_rng(0)
    right = np.repeat(np.arange(len(NAMES)), IMAGES // len(NAMES))
    rng.shuffle(right)
    return np.where(rng.random(IMAGES) < wrong, rng.integers(0, len(NAMES), IMAGES), right), right


def table(order: Sequence[int], *, wrong: float = 0.2, labels: Sequence[str] | None = NAMES) -> OrderTable:
    """Of a network whose logit i stands for class order[i], while its labels say class i."""
    seen, right = answers(wrong=wrong)
    found, logit = OrderTable(labels), np.argsort(order)
    for start in range(0, IMAGES, 64):
        piece = slice(start, start + 64)
        found.add(logit[seen[piece]], right[piece], len(NAMES))
    return found


@pytest.mark.parametrize(
    ("order", "name"),
    [
        (range(11, -1, -1), "reversed"),
        ([(place + 1) % 12 for place in range(12)], "moved by 1 place"),
        ([(place + 5) % 12 for place in range(12)], "moved by 5 places"),
        ([1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 3, 0], "sorted by name"),
        ([0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9], "sorted as text (0, 1, 10, 11, ... 2)"),
    ],
)
def test_an_order_is_named_with_what_it_makes_right(order: Sequence[int], name: str) -> None:
    found = table(list(order)).likely()
    assert found is not None
    seen, right = answers()
    assert found.name == name
    assert found.top1 == pytest.approx(100 * float(np.mean(seen == right)))


def test_an_order_that_has_no_name_is_told_as_another() -> None:
    found = table([3, 0, 7, 1, 10, 8, 2, 11, 5, 4, 9, 6]).likely()
    assert found is not None
    assert found.name == "another"
    assert found.top1 > 75


def test_a_network_that_is_right_or_merely_guesses_has_no_other_order() -> None:
    assert table(range(12)).likely() is None
    assert table(range(12), wrong=1.0).likely() is None, "guessing fits no order but by luck"


def test_few_images_or_very_many_classes_say_nothing() -> None:
    few = OrderTable(None)
    few.add(np.arange(12)[::-1], np.arange(12), 12)
    assert few.likely() is None
    many = OrderTable(None)
    many.add(np.arange(100), np.arange(100) + 1, 50_000)
    assert many.likely() is None
    assert OrderTable(None).likely() is None
