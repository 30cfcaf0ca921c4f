"""The drawn scenes: a box holds all that its defect changes, and no more, however the picture is turned."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.detector.scenes import LABELS, SIDE, VISIBLE, draw_scene, draw_scenes, draw_surface
from benchmarks.detector.train import turned_boxes
from edgeq.demo.vlm.pool import TURNS, turned

SEEDS = range(24)


@pytest.mark.parametrize("seed", SEEDS)
def test_boxes_enclose_what_defects_change(seed: int) -> None:
    """Faint ends of two neighbours add up, or take each other away."""
    surface, boxes = draw_surface(seed)
    sound, none = draw_surface(seed, defective=False)
    assert len(none) == 0
    change = np.abs(surface - sound).max(axis=-1)
    for _, left, top, right, bottom in boxes.astype(int):
        inside = change[top:bottom, left:right]
        for border in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
            assert border.max() > VISIBLE / 2
    for _, left, top, right, bottom in boxes.astype(int):
        change[top:bottom, left:right] = 0
    assert change.max() < 2 * VISIBLE


def test_every_class_is_drawn_and_some_scenes_are_sound() -> None:
    found = [draw_surface(seed)[1] for seed in range(60)]
    assert set(np.concatenate(found)[:, 0].astype(int)) == set(range(len(LABELS)))
    assert any(len(boxes) == 0 for boxes in found)


def test_boxes_lie_in_the_picture() -> None:
    boxes = np.concatenate([draw_surface(seed)[1] for seed in SEEDS])
    assert (boxes[:, 1:] >= 0).all()
    assert (boxes[:, 1:] <= SIDE).all()
    assert (boxes[:, 3:] - boxes[:, 1:3] >= 1).all()


def test_a_seed_is_always_the_same_scene_whoever_draws_it() -> None:
    alone, boxes = draw_scene(5)
    together = draw_scenes(4, 3)
    assert (together.pixels[1] == alone).all()
    assert (together.boxes[1] == boxes).all()
    assert (together.pixels[0] != alone).any()


@pytest.mark.parametrize("turn", range(TURNS))
def test_boxes_turn_with_the_picture(turn: int) -> None:
    """A mark in the upper left part of a picture that is otherwise empty."""
    picture = np.zeros((SIDE, SIDE), np.uint8)
    picture[10:30, 20:25] = 1
    ((label, left, top, right, bottom),) = turned_boxes(np.array([[3, 20, 10, 25, 30]], np.float32), turn).astype(int)
    rows, columns = np.nonzero(turned(picture, turn))
    assert label == 3
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (left, top, right, bottom)
