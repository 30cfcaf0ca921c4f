"""What was seen on an image, drawn on it: boxes, a mask, or words."""

from __future__ import annotations

import colorsys
import io
from base64 import b64decode
from functools import singledispatch

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from edgeq.frames.overlay import caption
from edgeq.service.report import Report
from edgeq.service.routes.schemas import ClassifyResponse, DetectResponse, SegmentResponse
from edgeq.service.watch_inference import Seen

__all__ = ["draw_seen"]

_GOLDEN = 0.618034


def draw_seen(image: Image.Image, seen: Seen | None) -> Image.Image:
    """A copy of an image with what was seen on it.

    Args:
        image: in mode RGB.
        seen: None where that failed.
    """
    return caption(image, ["failed"]) if seen is None else _drawn(seen, image)


@singledispatch
def _drawn(seen: object, image: Image.Image) -> Image.Image:
    raise NotImplementedError(type(seen))


@_drawn.register
def _(seen: Report, image: Image.Image) -> Image.Image:
    found = [f"{name}: {value}" for name, value in _findings(seen).items() if value]
    return caption(image, [*([", ".join(found)] if found else []), seen.text])


@_drawn.register
def _(seen: ClassifyResponse, image: Image.Image) -> Image.Image:
    return caption(image, [f"{one.label or one.index} {one.score:.1%}" for one in seen.classes[:3]])


@_drawn.register
def _(seen: DetectResponse, image: Image.Image) -> Image.Image:
    drawn = image.copy()
    draw = ImageDraw.Draw(drawn)
    size = max(image.height // 32, 10)
    font = ImageFont.load_default(size)
    for one in seen.objects:
        colour = _colour(one.index)
        box = one.box
        draw.rectangle((box.left, box.top, box.right, box.bottom), outline=colour, width=max(size // 6, 1))
        told = f"{one.label or one.index} {one.score:.0%}"
        at = (max(box.left, 0), max(box.top - size * 1.3, 0))
        draw.rectangle(draw.textbbox(at, told, font=font), fill=colour)
        draw.text(at, told, fill=(0, 0, 0), font=font)
    return drawn


@_drawn.register
def _(seen: SegmentResponse, image: Image.Image) -> Image.Image:
    mask = Image.open(io.BytesIO(b64decode(seen.mask))).resize(image.size, Image.Resampling.NEAREST)
    palette = np.array([_colour(index) for index in range(256)], np.uint8)
    shown = Image.blend(image, Image.fromarray(palette[np.asarray(mask, np.uint8)]), 0.5)
    most = sorted(seen.classes, key=lambda one: -one.pixels)[:3]
    pixels = max(sum(one.pixels for one in seen.classes), 1)
    return caption(shown, [f"{one.label or one.index} {one.pixels / pixels:.0%}" for one in most])


def _findings(seen: Report) -> dict[str, str | None]:
    return {"damage": seen.damage, "place": seen.place, "severity": seen.severity}


def _colour(index: int) -> tuple[int, int, int]:
    """A bright colour for a class; those of neighbouring numbers are far apart."""
    red, green, blue = colorsys.hsv_to_rgb(index * _GOLDEN % 1, 0.75, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)
