"""What is drawn beside the demo's scenes of damage: marks, numbers and plates on a photographed surface."""

from __future__ import annotations

from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from edgeq.demo.camera import photograph
from edgeq.demo.surfaces import concrete

__all__ = ["COLOURS", "SIDE", "enlarged", "painted", "rivets", "stencilled"]

SIDE: Final = 448
"""Width and height of every picture in pixels: more than most vision encoders see at once, and quick to draw."""

COLOURS: Final = {
    "red": (200, 30, 30),
    "green": (30, 140, 50),
    "blue": (40, 70, 200),
    "yellow": (235, 205, 30),
    "black": (15, 15, 15),
    "white": (245, 245, 245),
}

_DIGITS: Final = SIDE // 14
"""Height of a stencilled number in pixels: a fourteenth of the picture."""


def enlarged(scene: Image.Image) -> Image.Image:
    """A scene of the demo, at `SIDE`."""
    return scene.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def painted(rng: np.random.Generator, colour: str) -> Image.Image:
    """A square of one of `COLOURS` on concrete, a third of the picture wide, somewhere."""
    picture, draw = _wall(rng)
    side = SIDE // 3
    left, top = (int(value) for value in rng.integers(0, SIDE - side, 2))
    draw.rectangle((left, top, left + side, top + side), fill=COLOURS[colour])
    return picture


def rivets(rng: np.random.Generator, count: int) -> Image.Image:
    """So many dark discs on concrete, of one size, none touching another; at most nine."""
    picture, draw = _wall(rng)
    cell, radius = SIDE // 3, int(rng.integers(SIDE // 24, SIDE // 14))
    for place in rng.permutation(9)[:count]:
        row, column = divmod(int(place), 3)
        x, y = (int(cell * at + rng.integers(radius + 4, cell - radius - 4)) for at in (column, row))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(25, 25, 28))
    return picture


def stencilled(rng: np.random.Generator, text: str) -> Image.Image:
    """A text in dark paint on concrete, a fourteenth of the picture high, somewhere."""
    picture, draw = _wall(rng)
    font = ImageFont.load_default(_DIGITS)
    width = int(draw.textlength(text, font=font)) + 1
    left, top = int(rng.integers(8, SIDE - width - 8)), int(rng.integers(8, SIDE - 2 * _DIGITS))
    draw.text((left, top), text, fill=(20, 20, 24), font=font)
    return picture


def _wall(rng: np.random.Generator) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Photographed concrete of the demo, paler than it is there so that every mark stands out."""
    picture = enlarged(photograph(rng, 0.6 + 0.4 * concrete(rng)))
    return picture, ImageDraw.Draw(picture)
