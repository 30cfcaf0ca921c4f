"""Boxes found in a network's input are told in the image's own pixels: worked out by hand, and seen in real pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeq.model.images.geometry import Fit, Pad
from edgeq.model.images.placement import Placement
from edgeq.model.images.preprocess import Preprocess


def preprocess(height: int, width: int, resize: Any, *, crop: bool = False) -> Preprocess:
    return Preprocess(height, width, resize=resize, resample=0, center_crop=crop, scale=1.0)


def letterboxed(height: int, width: int, *, center: bool) -> Preprocess:
    fit = Fit(height, width)
    return Preprocess(height, width, resize=fit, resample=0, center_crop=False, scale=1.0, pad=Pad(0, center))


def test_bars_of_a_letterbox_are_no_part_of_the_image() -> None:
    placement = Placement.of(letterboxed(100, 100, center=True), 400, 200)  # becomes 100 x 50 between bars of 25
    assert (placement.scale, placement.offset) == ((0.25, 0.25), (0, 25))
    assert placement.boxes(np.array([[0, 25, 100, 75], [10, 0, 20, 30]], np.float32)).tolist() == [
        [0, 0, 400, 200],
        [40, 0, 80, 20],
    ]


def test_a_plain_resize() -> None:
    placement = Placement.of(preprocess(100, 200, (100, 200)), 400, 100)
    assert (placement.scale, placement.offset) == ((0.5, 1.0), (0.0, 0.0))
    boxes = np.array([[10, 20, 30, 40], [-5, -5, 900, 900]], np.float32)
    assert placement.boxes(boxes).tolist() == [[20, 20, 60, 40], [0, 0, 400, 100]]


def test_a_crop_cuts_equally_on_both_sides() -> None:
    placement = Placement.of(preprocess(50, 50, 100, crop=True), 400, 200)  # becomes 200 x 100
    assert (placement.scale, placement.offset) == ((0.5, 0.5), (-75.0, -25.0))
    assert placement.boxes(np.array([[0, 0, 50, 50]], np.float32)).tolist() == [[150, 50, 250, 150]]


def test_an_image_in_its_own_size() -> None:
    placement = Placement.of(preprocess(50, 50, None), 50, 50)
    assert placement.boxes(np.array([[1, 2, 3, 4]], np.float32)).tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("made", "size"),
    [
        (preprocess(40, 40, (40, 40)), (20, 10)),
        (preprocess(30, 30, 40, crop=True), (61, 47)),
        (preprocess(50, 50, 40, crop=True), (40, 80)),  # zeros fill up one edge
        (preprocess(31, 51, (30, 50), crop=True), (50, 30)),
        (letterboxed(40, 40, center=True), (20, 10)),  # bars of 10 above and below
        (letterboxed(41, 80, center=True), (20, 20)),  # one of 19 before it and of 20 behind
        (letterboxed(40, 40, center=False), (10, 20)),
    ],
)
def test_pixels_are_where_they_are_said_to_be(made: Preprocess, size: tuple[int, int]) -> None:
    """Each pixel of the image has a colour of its own, and the input shows it in the place that is said."""
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(width) + 1, (np.arange(height) + 1)[:, None]
    shown = made(Image.fromarray(pixels)).transpose(1, 2, 0)
    rows, columns = Placement.of(made, width, height).rows_and_columns(made.height, made.width)
    wanted = np.zeros_like(shown)
    inside = (rows[:, None] >= 0) & (columns[None, :] >= 0)
    wanted[inside] = pixels[rows][:, columns][inside]
    np.testing.assert_array_equal(shown, wanted)
    down, across = Placement.of(made, width, height).from_image(made.height, made.width)
    assert (down.shape, across.shape) == ((height,), (width,))
    assert abs(int(rows[down[height // 2]]) - height // 2) <= 1
