"""Scalar fields that surfaces and defects are made of: noise, blobs, paths and the light that falls on a relief.

A field is a float32 array of shape [SIZE, SIZE], rows first; lengths are in pixels. Every function takes the random
generator it draws from, so that a scene depends on its seed and on nothing else.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = [
    "COLUMNS",
    "ROWS",
    "SIZE",
    "Field",
    "blob",
    "distance_to_path",
    "fractal_noise",
    "ramp",
    "relief_light",
    "straight_line",
]

SIZE = 64
"""Width and height of a scene in pixels."""

Field = NDArray[np.float32]

ROWS, COLUMNS = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
"""Row and column of every pixel, each [SIZE, SIZE]."""


def fractal_noise(rng: np.random.Generator, cells: tuple[int, int], octaves: int) -> Field:
    """Smooth noise of mean about 0 and deviation about 1: octaves of halving amplitude and doubling frequency.

    Args:
        rng: where the noise comes from.
        cells: noise cells down and across at the lowest octave; unequal numbers give a grain.
        octaves: how many octaves are added up.
    """
    total = np.zeros((SIZE, SIZE), np.float32)
    power = 0.0
    for octave in range(octaves):
        down, across = (min(count << octave, SIZE) for count in cells)
        coarse = rng.standard_normal((down + 1, across + 1), dtype=np.float32)
        total += np.asarray(Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC)) * 0.5**octave
        power += 0.25**octave
    # Interpolation between grid points loses about half of the variance.
    return np.asarray(total * (1.4 / math.sqrt(power)), np.float32)


def ramp(field: NDArray[np.floating[Any]], low: float, high: float) -> Field:
    """0 below `low`, 1 above `high`, and a smooth cubic between them.

    Args:
        field: of any shape.
        low: where the ramp begins.
        high: where it ends.
    """
    t = np.clip((field - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


def blob(
    rng: np.random.Generator, radius: float, raggedness: float, centre: tuple[float, float] | None = None
) -> Field:
    """A ragged ellipse somewhere in the picture: about 1 at its centre, 0 on its outline, negative outside.

    Args:
        rng: where place, shape and outline come from.
        radius: mean radius in pixels.
        raggedness: how far noise moves the outline, as a share of the radius.
        centre: row and column of its middle, for a rounder ellipse that noise makes no larger or smaller.
    """
    row, column = centre or rng.uniform(0.25 * SIZE, 0.75 * SIZE, 2).tolist()
    stretch = rng.uniform(0.7, 1.4) ** (0.5 if centre else 1)
    angle = rng.uniform(0, math.pi)
    along = (COLUMNS - column) * math.cos(angle) + (ROWS - row) * math.sin(angle)
    across = (ROWS - row) * math.cos(angle) - (COLUMNS - column) * math.sin(angle)
    reach = np.hypot(along / (radius * stretch), across * stretch / radius)
    noise = fractal_noise(rng, (4, 4), 4)
    if centre:
        noise -= noise[reach < 1.2].mean()
    return np.asarray(1 - reach + raggedness * noise, np.float32)


def straight_line(
    rng: np.random.Generator, tilt: float, through: tuple[float, float] | None = None
) -> tuple[Field, Field]:
    """A straight line, upright or level but for about `tilt` radians.

    Args:
        rng: where direction and place come from.
        tilt: deviation of the angle in radians.
        through: row and column of a point on it; anywhere near the middle when not given.

    Returns:
        The signed distance from the line and the position along it, both in pixels.
    """
    angle = rng.normal(0, tilt) + (math.pi / 2 if rng.random() < 0.5 else 0)
    row, column = through or rng.uniform(0.15 * SIZE, 0.85 * SIZE, 2).tolist()
    across = (COLUMNS - column) * math.cos(angle) + (ROWS - row) * math.sin(angle)
    along = (ROWS - row) * math.cos(angle) - (COLUMNS - column) * math.sin(angle)
    return np.asarray(across, np.float32), np.asarray(along, np.float32)


def distance_to_path(points: NDArray[np.float64], widths: NDArray[np.float64]) -> Field:
    """Distance of every pixel from the outline of a path of varying width; negative within the path.

    Args:
        points: [n, 2] rows and columns of the corners.
        widths: [n - 1] width of each stretch in pixels.
    """
    start = points[:-1].astype(np.float32)
    step = np.diff(points, axis=0).astype(np.float32)
    down = ROWS[..., None] - start[:, 0]
    across = COLUMNS[..., None] - start[:, 1]
    share = np.clip((down * step[:, 0] + across * step[:, 1]) / np.square(step).sum(axis=1), 0, 1)
    distance = np.hypot(down - share * step[:, 0], across - share * step[:, 1])
    return np.asarray((distance - widths.astype(np.float32) / 2).min(axis=-1), np.float32)


def relief_light(height: Field, strength: float) -> Field:
    """Light from the upper left on a relief: about 1 on the flat, brighter on slopes that face it, darker behind them.

    Args:
        height: the relief in any unit.
        strength: brightness gained per unit of slope in the light's direction.
    """
    slope_down, slope_across = np.gradient(height)
    return np.asarray(np.clip(1 + strength * (slope_down + slope_across), 0.3, 1.7), np.float32)
