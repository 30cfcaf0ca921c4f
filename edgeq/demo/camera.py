"""The camera between a surface and its photograph: light, colour temperature, focus, sensor noise and JPEG."""

from __future__ import annotations

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from edgeq.demo.surfaces import Surface
from edgeq.demo.texture import Field

__all__ = ["photograph"]


def photograph(rng: np.random.Generator, surface: Surface) -> Image.Image:
    """One RGB photograph of a surface [height, width, 3], with what a hand-held camera does to it."""
    warmth = rng.normal(0, 0.05)
    white = np.array((1 + warmth, 1.0, 1 - warmth), np.float32)
    exposed = surface * white * (rng.uniform(0.75, 1.2) * lighting(rng, *surface.shape[:2]))[..., None]
    image = Image.fromarray(to_bytes(exposed))
    if rng.random() < 0.6:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.1)))
    noise = rng.standard_normal(surface.shape, dtype=np.float32) * np.float32(rng.uniform(0.005, 0.035))
    noisy = np.asarray(image, np.float32) / 255 + noise
    return compressed(Image.fromarray(to_bytes(noisy)), quality=int(rng.integers(45, 96)))


def lighting(rng: np.random.Generator, height: int, width: int) -> Field:
    """Light that falls off to one side and towards the corners, float32 [height, width]; about 1 in the middle.

    Args:
        rng: draws how it falls off.
        height, width: of the surface, in pixels.
    """
    angle = rng.uniform(0, 2 * math.pi)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    down, across = (rows / height - 0.5), (columns / width - 0.5)
    slope = rng.uniform(0, 0.4) * (math.cos(angle) * across + math.sin(angle) * down)
    corners = rng.uniform(0, 0.35) * (np.square(across) + np.square(down))
    return np.asarray(1 + slope - corners, np.float32)


def to_bytes(values: Surface) -> NDArray[np.uint8]:
    """Float 0..1 to uint8 0..255, rounded and clipped; any shape [...] stays."""
    return np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)


def compressed(image: Image.Image, quality: int) -> Image.Image:
    """The image after JPEG at the given quality."""
    stored = io.BytesIO()
    image.save(stored, "JPEG", quality=quality)
    return Image.open(stored).convert("RGB")
