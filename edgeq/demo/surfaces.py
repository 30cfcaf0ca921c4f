"""What is inspected: bare concrete and bare or painted steel, with the marks that are no defect.

A surface is a float32 array [SIZE, SIZE, 3] of sRGB values, about 0 to 1. Joints, pores, water streaks, welds, rivets
and scratches are there so that a network cannot take every line for a crack and every patch for corrosion.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeq.demo.texture import COLUMNS, ROWS, SIZE, Field, fractal_noise, ramp, relief_light, straight_line

__all__ = ["Surface", "concrete", "steel"]

Surface = NDArray[np.float32]

PAINTS = np.array(
    [
        (0.62, 0.64, 0.66),
        (0.50, 0.53, 0.57),
        (0.34, 0.43, 0.53),
        (0.36, 0.47, 0.40),
        (0.73, 0.70, 0.60),
        (0.52, 0.33, 0.27),
    ],
    np.float32,
)
"""Bare steel, grey, blue, green and cream paint, and red lead, which looks a little like corrosion."""

PAINT_SHARES = (0.3, 0.25, 0.17, 0.12, 0.1, 0.06)


def concrete(rng: np.random.Generator) -> Surface:
    """Grey concrete with clouds, grain and pores, often with a formwork joint, board marks or water streaks."""
    tone = rng.uniform(0.48, 0.74) + 0.035 * fractal_noise(rng, (2, 2), 3)
    tone *= relief_light(fractal_noise(rng, (10, 10), 3), rng.uniform(0.01, 0.05))
    tone *= pores(rng)
    if rng.random() < 0.4:
        tone *= joint(rng)
    if rng.random() < 0.25:
        tone *= 1 + 0.035 * upright(rng, fractal_noise(rng, (2, 24), 2))
    if rng.random() < 0.3:
        tone *= 1 - rng.uniform(0.1, 0.25) * ramp(fractal_noise(rng, (1, 9), 2), 0.2, 2)
    tint = np.array((1.0, rng.uniform(0.96, 1.0), rng.uniform(0.86, 0.99)), np.float32)
    return np.asarray(tone[..., None] * tint, np.float32)


def steel(rng: np.random.Generator) -> Surface:
    """Bare or painted steel plate with rolling grain and a sheen, often with a weld, a row of rivets or scratches."""
    tone = 1 + 0.03 * upright(rng, fractal_noise(rng, (2, 16), 3)) + 0.02 * fractal_noise(rng, (4, 4), 4)
    across, _ = straight_line(rng, 0.6)
    tone *= 1 + rng.uniform(0, 0.3) * np.exp(-np.square(across / rng.uniform(12, 30)))
    if rng.random() < 0.3:
        tone *= weld(rng)
    if rng.random() < 0.4:
        tone *= rivets(rng)
    if rng.random() < 0.4:
        tone *= scratches(rng)
    colour = rng.choice(PAINTS, p=PAINT_SHARES) * rng.uniform(0.85, 1.15)
    return np.asarray(tone[..., None] * colour, np.float32)


def upright(rng: np.random.Generator, grain: Field) -> Field:
    """The grain as it is or turned by a quarter, with equal chances."""
    return grain if rng.random() < 0.5 else grain.T


def pores(rng: np.random.Generator) -> Field:
    """Blow holes: a few small dark pits, as factors on the tone."""
    count = rng.poisson(4)
    rows, columns = rng.uniform(0, SIZE, (2, count)).astype(np.float32)
    radii = rng.uniform(0.4, 1.5, count).astype(np.float32)
    distance = np.hypot(ROWS[..., None] - rows, COLUMNS[..., None] - columns)
    pits = np.clip(radii + 0.5 - distance, 0, 1) * rng.uniform(0.2, 0.6, count).astype(np.float32)
    return np.asarray(1 - pits.max(axis=-1, initial=0), np.float32)


def joint(rng: np.random.Generator) -> Field:
    """A formwork joint: a straight fine groove with a lit lip, and a step of tone from panel to panel."""
    across, _ = straight_line(rng, 0.03)
    groove = rng.uniform(0.1, 0.45) * np.exp(-np.square(across / rng.uniform(0.5, 1.3)))
    lip = rng.uniform(0, 0.12) * np.exp(-np.square((across - 2) / 1.0))
    step = rng.uniform(-0.08, 0.08) * ramp(across, -0.5, 0.5)
    return np.asarray(1 - groove + lip + step, np.float32)


def weld(rng: np.random.Generator) -> Field:
    """A weld seam: a raised bead with ripples along it."""
    across, along = straight_line(rng, 0.08)
    bead = np.exp(-np.square(across / rng.uniform(2.5, 5)))
    ripples = 1 + 0.25 * np.sin(along * rng.uniform(1.2, 2.2) + 0.08 * np.square(across))
    return relief_light(bead * ripples, rng.uniform(0.5, 1.0))


def rivets(rng: np.random.Generator) -> Field:
    """A row of domed rivet heads with the shade that each one throws."""
    across, along = straight_line(rng, 0.05)
    pitch = rng.uniform(13, 24)
    from_head = np.mod(along + rng.uniform(0, pitch), pitch) - pitch / 2
    reach = np.hypot(across, from_head) / rng.uniform(2.5, 4.5)
    dome = np.sqrt(np.clip(1 - np.square(reach), 0, 1))
    return relief_light(dome, rng.uniform(0.4, 0.8))


def scratches(rng: np.random.Generator) -> Field:
    """One to three straight fine scratches, bright where they bare the metal and dark where they hold dirt."""
    tone = np.ones((SIZE, SIZE), np.float32)
    for _ in range(rng.integers(1, 4)):
        across, along = straight_line(rng, 0.8)
        length = rng.uniform(8, 30)
        tone += rng.uniform(-0.25, 0.35) * np.exp(-np.square(across / 0.6)) * ramp(length - np.abs(along), 0, 6)
    return tone
