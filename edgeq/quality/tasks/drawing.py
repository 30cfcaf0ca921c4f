"""What a network says of an image, drawn onto it for a person: boxes with their classes, or a colour for each class."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from edgeq.model.heads.boxes import Detections
from edgeq.quality.tasks.detection.similarity import SEEN

__all__ = ["DRAWN_SIDE", "draw_boxes", "draw_classes", "side_by_side", "smaller"]

DRAWN_SIDE: Final = 480
"""Longest side of a drawing, in pixels."""

_GOLDEN: Final = 0.618033988749895
_MOST_LABELS: Final = 30
_GAP: Final = 8
_DOT: Final = 2


def smaller(image: Image.Image) -> Image.Image:
    """The image, or a smaller one, no side longer than `DRAWN_SIDE`."""
    small = image.copy()
    small.thumbnail((DRAWN_SIDE, DRAWN_SIDE))
    return small


def draw_boxes(image: Image.Image, found: Detections, labels: Sequence[str]) -> Image.Image:
    """An image with a frame around each object, its class and score, and a dot for each keypoint that is to be seen.

    Args:
        image: mode RGB.
        found: in pixels of the image, the likeliest first.
        labels: by class; a class without one is a number.
    """
    drawn = image.copy()
    pen = ImageDraw.Draw(drawn)
    rows = list(zip(found.boxes.tolist(), found.scores.tolist(), found.classes.tolist(), strict=True))
    for place, (box, score, number) in enumerate(rows):
        left, top, right, bottom = box
        pen.rectangle((left, top, max(left, right), max(top, bottom)), outline=_colour(number), width=2)
        if place < _MOST_LABELS:
            name = labels[number] if number < len(labels) else str(number)
            pen.text((left + 3, top + 2), f"{name} {score:.2f}", fill=_colour(number))
    for number, points in zip(found.classes.tolist(), () if found.keypoints is None else found.keypoints, strict=False):
        for across, down in points[points[:, 2] >= SEEN, :2].tolist():
            pen.ellipse((across - _DOT, down - _DOT, across + _DOT, down + _DOT), fill=_colour(number))
    return drawn


def draw_classes(image: Image.Image, classes: NDArray[np.uint16]) -> Image.Image:
    """An image half covered by a colour for each class.

    Args:
        image: mode RGB.
        classes: of each of its pixels, uint16 [height, width].
    """
    numbers, places = np.unique(classes, return_inverse=True)
    colours = np.array([_colour(int(number)) for number in numbers], np.uint8)
    return Image.blend(image, Image.fromarray(colours[places.reshape(classes.shape)]), 0.5)


def side_by_side(left: Image.Image, right: Image.Image) -> Image.Image:
    """Two images of one size beside each other, with a white gap between."""
    joined = Image.new("RGB", (2 * left.width + _GAP, left.height), "white")
    joined.paste(left, (0, 0))
    joined.paste(right, (left.width + _GAP, 0))
    return joined


def _colour(number: int) -> tuple[int, int, int]:
    """A colour of its own for each class, the same each time."""
    red, green, blue = colorsys.hsv_to_rgb(number * _GOLDEN % 1.0, 0.9, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
