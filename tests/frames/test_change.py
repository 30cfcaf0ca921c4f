"""How much an image differs, a frame rate, and the place between two threads."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from PIL import Image

from edgeq.frames.change import CELLS, Change
from edgeq.frames.handover import Handover
from edgeq.frames.pace import Pace

GREY = 100


def scene(square: tuple[int, int, int] | None = None, size: tuple[int, int] = (640, 480)) -> Image.Image:
    """Grey, with a square (left, top, side) that is 60 levels brighter."""
    pixels = np.full((size[1], size[0], 3), GREY, np.uint8)
    if square is not None:
        left, top, side = square
        pixels[top : top + side, left : left + side] = GREY + 60
    return Image.fromarray(pixels)


def noisy(image: Image.Image, seed: int) -> Image.Image:
    """With noise of 4 levels, as of a sensor."""
    noise = np.random.default_rng(seed).normal(0, 4, np.asarray(image).shape)
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def test_the_measure_is_the_greatest_difference_of_a_cell_in_percent() -> None:
    """A square that fills a cell of 20 x 15 pixels is 60 of 255 levels; one that fills a quarter of it is a quarter."""
    width, height = 640 // CELLS, 480 // CELLS
    change = Change(0.1)
    assert change.take(scene()) == (True, None)
    taken, percent = change.take(scene((5 * width, 5 * height, width)))
    assert taken
    assert percent == pytest.approx(100 * 60 / 255)
    change = Change(0.1)
    change.take(scene())
    _, percent = change.take(scene((5 * width, 5 * height, height // 3)))
    assert percent == pytest.approx(100 * 60 / 255 * (height // 3) ** 2 / (width * height))


def test_noise_is_no_change_and_something_small_is() -> None:
    change = Change(3.0)
    assert change.take(noisy(scene(), 0))[0]
    assert not any(change.take(noisy(scene(), seed))[0] for seed in range(1, 20))
    assert change.take(noisy(scene((300, 200, 20)), 20))[0]


def test_what_changes_slowly_adds_up() -> None:
    change, taken = Change(3.0), []
    for level in range(0, 40, 2):
        taken.append(change.take(Image.new("RGB", (64, 64), (level, level, level)))[0])
    assert [number for number, one in enumerate(taken) if one] == [0, 4, 8, 12, 16]  # 8 levels are 3.1 %


def test_nothing_is_measured_where_nobody_asks() -> None:
    change = Change(0.0)
    assert [change.take(scene()) for _ in range(2)] == [(True, None)] * 2


def test_another_size_is_compared_as_well() -> None:
    change = Change(1.0)
    change.take(scene(size=(640, 480)))
    assert change.take(scene(size=(333, 77)))[1] == pytest.approx(0, abs=0.5)


def test_a_pace() -> None:
    pace = Pace(10)
    assert [pace.take(time) for time in (5.0, 5.05, 5.09, 5.1, 5.12, 5.31, 5.35, 5.4)] == [
        *(True, False, False, True, False),
        *(True, False, False),
    ]
    assert pace.take(1.0)  # it went back
    assert not pace.take(1.05)
    assert pace.take(None)
    assert all(Pace(None).take(0.0) for _ in range(3))


def test_the_newest_takes_the_place_of_what_was_not_taken() -> None:
    handover: Handover[int] = Handover(keep_all=False)
    for number in range(5):
        assert handover.put(number)
    assert handover.take() == (4, 4)
    handover.put(5)
    handover.end()
    assert handover.take() == (5, 0)
    assert handover.take() is None
    assert not handover.put(6)


def test_each_is_taken_where_all_are_kept() -> None:
    handover: Handover[int] = Handover(keep_all=True)

    def put() -> None:
        for number in range(50):
            handover.put(number)
        handover.end(ValueError("the end"))

    thread = threading.Thread(target=put)
    thread.start()
    assert [handover.take() for _ in range(50)] == [(number, 0) for number in range(50)]
    with pytest.raises(ValueError, match="the end"):
        handover.take()
    thread.join()


def test_who_puts_is_let_go_when_nobody_takes_any_more() -> None:
    handover: Handover[int] = Handover(keep_all=True)
    handover.put(0)
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(handover.put(1)))
    thread.start()
    handover.end()
    thread.join(10)
    assert answers == [False]
