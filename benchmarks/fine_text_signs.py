"""Drawn text for `fine_text.py`: one digit on a drawn surface, its size, rotation and contrast known, and tiles of it.

The same sign gives the same pixels wherever numpy's PCG64 and Pillow with FreeType do. Lengths are in pixels of the
whole image.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from functools import cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from edgeq.demo import surfaces

__all__ = ["CAPS", "DIGITS", "SIDE", "TILE", "Box", "Sign", "compressed", "draw", "shifted"]

SIDE: Final = 256
"""Width and height of an image: four tiles of the tower's size a side."""

TILE: Final = 64
"""Width and height of a picture as the demo's tower takes it."""

CAPS: Final = (1, 4, 16)
"""The most tiles of an image: a picture of the whole alone, tiles at half and at full resolution."""

DIGITS: Final = 10

_OVERSAMPLING: Final = 4
_ROOM: Final = 1.25
"""Side of the box around a digit over its height: the widest digit, turned by 30 degrees, is within it."""


@dataclass(frozen=True)
class Sign:
    """A digit and how it is drawn. Signs that differ in the digit alone differ in no pixel outside the digit.

    Attributes:
        digit: 0 to 9.
        height: of the digit before it is turned, in pixels.
        rotation: in degrees, anticlockwise.
        contrast: how far the digit is from the surface to black or to white, 0 to 1.
        seed: of surface and position.
    """

    digit: int
    height: int
    rotation: float
    contrast: float
    seed: int


class Box(NamedTuple):
    """Where a digit is, of whatever shape: left and top within, right and bottom beyond."""

    left: int
    top: int
    right: int
    bottom: int


def draw(sign: Sign) -> tuple[Image.Image, Box]:
    """An RGB photograph of SIDE x SIDE pixels with the digit anywhere on it, and where that is."""
    rng = np.random.Generator(np.random.PCG64(sign.seed))
    surface = _surface(rng)
    side = math.ceil(_ROOM * sign.height) + 1
    left, top = rng.integers(0, SIDE - side + 1, 2).tolist()
    box = Box(left, top, left + side, top + side)
    there = surface[box.top : box.bottom, box.left : box.right]
    ink = 0.0 if there.mean() > 0.5 else 1.0
    share = sign.contrast * _digit(sign, side, rng.integers(0, _OVERSAMPLING, 2).tolist())[..., None]
    there += share * (ink - there)
    noisy = surface + 0.01 * rng.standard_normal((SIDE, SIDE, 1), np.float32)
    return Image.fromarray(np.clip(np.rint(noisy * 255), 0, 255).astype(np.uint8)), box


def _surface(rng: np.random.Generator) -> NDArray[np.float32]:
    """Concrete or steel as the demo draws it, four times as large, with grain of its own, [SIDE, SIDE, 3], 0 to 1."""
    small = surfaces.concrete(rng) if rng.random() < 0.5 else surfaces.steel(rng)
    large = [
        np.asarray(Image.fromarray(small[..., c]).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for c in range(3)
    ]
    grain = rng.standard_normal((SIDE // 2, SIDE // 2), np.float32)
    fine = np.asarray(Image.fromarray(grain).resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32)
    return np.asarray(np.clip(np.stack(large, axis=-1) * (1 + 0.03 * fine[..., None]), 0, 1).astype(np.float32))


def _digit(sign: Sign, side: int, offset: list[int]) -> NDArray[np.float32]:
    """How much of each pixel of the box the turned digit covers, [side, side], 0 to 1.

    Args:
        sign: the digit.
        side: of the box.
        offset: right and down, in quarters of a pixel; 2 is the middle.
    """
    glyph = _glyph(sign.digit)
    height = sign.height * _OVERSAMPLING
    width = max(1, round(glyph.width * height / glyph.height))
    large = Image.new("L", (side * _OVERSAMPLING,) * 2)
    middle = _OVERSAMPLING // 2
    corner = (large.width - width) // 2 + offset[0] - middle, (large.height - height) // 2 + offset[1] - middle
    large.paste(glyph.resize((width, height), Image.Resampling.LANCZOS), corner)
    turned = large.rotate(sign.rotation, Image.Resampling.BICUBIC)
    return np.asarray(turned.reduce(_OVERSAMPLING)).astype(np.float32) / np.float32(255)


@cache
def _glyph(digit: int) -> Image.Image:
    """The digit of Pillow's own font without a margin, white on black, higher than any that is drawn."""
    canvas = Image.new("L", (400, 400))
    ImageDraw.Draw(canvas).text((100, 50), str(digit), fill=255, font=ImageFont.load_default(280))
    return canvas.crop(canvas.getbbox())


def shifted(image: Image.Image) -> Image.Image:
    """The image one pixel to the right."""
    return Image.fromarray(np.roll(np.asarray(image), 1, axis=1))


def compressed(image: Image.Image) -> Image.Image:
    """The image after JPEG at quality 90."""
    stored = io.BytesIO()
    image.save(stored, "JPEG", quality=90)
    return Image.open(stored).convert("RGB")
