"""What an inspection looks for, and the shadow that is so often taken for it.

Every function takes a generator and a surface [SIZE, SIZE, 3] and returns the surface with the defect on it. With a
site, the defect is drawn there, as large as the site says, and plain enough for both to be seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeq.demo.surfaces import Surface
from edgeq.demo.texture import (
    COLUMNS,
    ROWS,
    SIZE,
    Field,
    blob,
    distance_to_path,
    fractal_noise,
    ramp,
    relief_light,
    straight_line,
)

__all__ = ["DefectSite", "corrosion", "hairline_crack", "shade", "shadow", "spalling", "wide_crack"]

RUST_DARK = np.array((0.24, 0.13, 0.09), np.float32)
RUST_BRIGHT = np.array((0.62, 0.35, 0.17), np.float32)
RUST_OLD = np.array((0.43, 0.31, 0.24), np.float32)


@dataclass(frozen=True)
class DefectSite:
    """Where a defect is and how large.

    Attributes:
        centre: row and column of its middle, in pixels.
        size: the length of a hairline crack, the width of a wide one, or the mean radius of anything else, in pixels.
    """

    centre: tuple[float, float]
    size: float


def hairline_crack(rng: np.random.Generator, surface: Surface, site: DefectSite | None = None) -> Surface:
    """A jagged line about a pixel wide, here and there almost lost in the grain.

    Args:
        rng: draws everything.
        surface: float32 [SIZE, SIZE, 3], 0 to 1; not changed.
        site: where the defect is and how large; None draws both.
    """
    points, widths = crack_path(rng, rng.uniform(0.2, 1.0))
    if site:
        points = fitted(points, site.centre, site.size)
    outline = distance_to_path(points, widths)
    line = np.exp(-np.square(np.maximum(outline, 0) / 0.7))
    presence = 0.75 + 0.25 * np.clip(fractal_noise(rng, (5, 5), 2), -1, 1)
    depth = rng.uniform(0.35, 0.55) if site else rng.uniform(0.09, 0.5)
    return darkened(surface, depth * line * presence)


def wide_crack(rng: np.random.Generator, surface: Surface, site: DefectSite | None = None) -> Surface:
    """An open crack, dark inside, with broken and lit edges and often a branch.

    Args:
        rng, surface, site: as for `hairline_crack`.
    """
    width = site.size if site else rng.uniform(1.4, 4.5)
    outline = open_path(rng, width, site)
    if rng.random() < 0.5:
        outline = np.minimum(outline, open_path(rng, 0.5 * width, site))
    gap = ramp(-outline - 0.25 * fractal_noise(rng, (20, 20), 1), -0.6, 0.6)
    lit = surface * relief_light(-gap, 0.35)[..., None]
    return darkened(lit, rng.uniform(0.6, 0.9) * gap)


def corrosion(rng: np.random.Generator, surface: Surface, site: DefectSite | None = None) -> Surface:
    """A ragged patch of rust, mottled and pitted, often with streaks that have run down from it.

    Args:
        rng, surface, site: as for `hairline_crack`.
    """
    field = patch_outline(rng, site, radius=(9, 20), raggedness=(0.25, 0.45))
    softness = rng.uniform(0.05, 0.25 if site else 0.5)
    patch = ramp(field, -softness, softness) * rng.uniform(0.5 if site else 0.3, 0.95)
    if rng.random() < 0.5:
        patch = np.maximum(patch, run_down(rng, patch))
    mottle = ramp(fractal_noise(rng, (6, 6), 4), -1.6, 1.6)[..., None]
    bright = RUST_BRIGHT + (RUST_OLD - RUST_BRIGHT) * np.float32(rng.random())
    rust = RUST_DARK + (bright - RUST_DARK) * mottle
    pitted = rust * rng.uniform(0.8, 1.2) * relief_light(fractal_noise(rng, (16, 16), 2), 0.08)[..., None]
    return covered(surface, np.asarray(pitted, np.float32), patch)


def spalling(rng: np.random.Generator, surface: Surface, site: DefectSite | None = None) -> Surface:
    """Concrete broken away: a rough hollow of stones and mortar with a sharp edge, at times down to a rusty bar.

    Args:
        rng, surface, site: as for `hairline_crack`.
    """
    field = patch_outline(rng, site, radius=(11, 22), raggedness=(0.12, 0.25))
    hollow = ramp(field, -0.06, 0.06)
    inside = surface.mean(axis=(0, 1)) * rng.uniform(0.75, 1.05) * stones(rng)[..., None]
    if rng.random() < 0.35:
        row, column = np.unravel_index(field.argmax(), field.shape)
        across, along = straight_line(rng, 0.1, through=(float(row), float(column)))
        bar = ramp(rng.uniform(1.5, 3) - np.abs(across), -0.5, 0.5)
        ribs = relief_light(bar * (1 + 0.2 * np.sin(1.8 * along)), 0.5)
        inside = covered(inside, RUST_OLD * ribs[..., None], bar)
    depth = relief_light(-ramp(field, -0.1, 0.35), rng.uniform(1.0, 2.2))
    return np.asarray(covered(surface, inside, hollow) * depth[..., None], np.float32)


def shadow(rng: np.random.Generator, surface: Surface, site: DefectSite | None = None) -> Surface:
    """A shadow that can be taken for corrosion: dark and soft-edged, at times warm in tone or on a stain.

    Args:
        rng, surface, site: as for `hairline_crack`.
    """
    warm = rng.random() < 0.6
    tint = (1.0, rng.uniform(0.8, 0.95), rng.uniform(0.62, 0.85)) if warm else (rng.uniform(0.9, 1), 0.97, 1.0)
    cover = soft_cover(rng, site) * rng.uniform(0.4, 0.7)
    if warm and rng.random() < 0.75:
        cover = np.clip(cover * (1 + 0.25 * fractal_noise(rng, (4, 4), 3)), 0, 0.85)
    kept = 1 - cover[..., None] * (2 - np.array(tint, np.float32)) / 1.1
    return np.asarray(surface * np.clip(kept, 0.1, 1), np.float32)


def shade(rng: np.random.Generator, surface: Surface) -> Surface:
    """A faint soft shade such as is on any surface outdoors; no class of its own."""
    return darkened(surface, rng.uniform(0.05, 0.22) * soft_cover(rng))


def darkened(surface: Surface, loss: Field) -> Surface:
    """The surface with a share of its light taken away, 0 to 1 for every pixel."""
    return np.asarray(surface * (1 - loss)[..., None], np.float32)


def covered(surface: Surface, layer: Surface, cover: Field) -> Surface:
    """The layer over the surface.

    Args:
        surface, layer: [SIZE, SIZE, 3]; neither is changed.
        cover: how opaque the layer is, 0 to 1 for every pixel, [SIZE, SIZE].
    """
    return np.asarray(surface + (layer - surface) * cover[..., None], np.float32)


def crack_path(rng: np.random.Generator, width: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A jagged walk: corners [n, 2] in pixels and widths [n - 1] of its stretches, tapering to both ends; float64."""
    stretches = int(rng.integers(14, 24))
    course = rng.uniform(0, 2 * np.pi)
    # A wandering heading around one course: cracks turn at every grain and yet go somewhere.
    heading = course + 0.25 * np.cumsum(rng.normal(0, 0.5, stretches)) + rng.normal(0, 0.5, stretches)
    steps = rng.uniform(2, 5.5, stretches)[:, None] * np.stack((np.sin(heading), np.cos(heading)), axis=1)
    points = np.concatenate((np.zeros((1, 2)), np.cumsum(steps, axis=0)))
    points += SIZE / 2 - points.mean(axis=0) + rng.uniform(-0.18, 0.18, 2) * SIZE
    taper = np.sqrt(np.sin(np.pi * (np.arange(stretches) + 0.5) / stretches))
    return points, width * taper * rng.uniform(0.7, 1.35, stretches)


def fitted(points: NDArray[np.float64], centre: tuple[float, float], length: float) -> NDArray[np.float64]:
    """A path moved and scaled: its corners, float64 [n, 2].

    Args:
        points: the path's corners, [n, 2].
        centre: row and column of the middle that its bounding box gets, in pixels.
        length: diagonal that this box gets, in pixels.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    return np.asarray((points - (low + high) / 2) * (length / np.linalg.norm(high - low)) + centre)


def open_path(rng: np.random.Generator, width: float, site: DefectSite | None) -> Field:
    """Distance of every pixel from the edge of an open crack.

    Args:
        rng: draws the path.
        width: of the crack, in pixels.
        site: the crack is there, of middling length; None for anywhere.
    """
    points, widths = crack_path(rng, width)
    if site:
        points = fitted(points, site.centre, rng.uniform(28, 42))
    return distance_to_path(points, widths)


def patch_outline(
    rng: np.random.Generator, site: DefectSite | None, radius: tuple[float, float], raggedness: tuple[float, float]
) -> Field:
    """A blob, at a site half as ragged.

    Args:
        rng: draws it.
        site: where it is and its mean radius; None draws both.
        radius: range of the mean radius in pixels, without a site.
        raggedness: range of what `blob` takes.
    """
    if site:
        return blob(rng, site.size, rng.uniform(*raggedness) / 2, site.centre)
    return blob(rng, rng.uniform(*radius), rng.uniform(*raggedness))


def run_down(rng: np.random.Generator, patch: Field) -> Field:
    """What rain washes down from a patch: streaks below it that fade within a few pixels."""
    fade = np.float32(rng.uniform(0.88, 0.96))
    streaks = np.empty_like(patch)
    wet = np.zeros(SIZE, np.float32)
    for row in range(SIZE):
        wet = np.maximum(wet * fade, patch[row])
        streaks[row] = wet
    return np.asarray(streaks * ramp(fractal_noise(rng, (1, 14), 2), -0.5, 1.5) * 0.7, np.float32)


def stones(rng: np.random.Generator) -> Field:
    """Broken aggregate: stones of their own brightness, dark in the mortar between them, as factors on the tone."""
    count = int(rng.integers(40, 80))
    rows, columns = rng.uniform(0, SIZE, (2, count)).astype(np.float32)
    distance = np.hypot(ROWS[..., None] - rows, COLUMNS[..., None] - columns)
    nearest = distance.argmin(axis=-1)
    brightness = rng.uniform(0.65, 1.2, count).astype(np.float32)[nearest]
    rounded = brightness * (1.1 - 0.3 * ramp(distance.min(axis=-1), 1.5, 5))
    return np.asarray(rounded * relief_light(fractal_noise(rng, (16, 16), 3), 0.12), np.float32)


def soft_cover(rng: np.random.Generator, site: DefectSite | None = None) -> Field:
    """How much light something out of the picture takes away, 0 to 1: an edge, a bar or a round thing, soft-edged.

    Only the round thing has a place: with a site, it is always that.
    """
    softness = rng.uniform(1.5, 7)
    form = 2 if site else rng.choice(3, p=(0.25, 0.25, 0.5))
    if form == 2:
        centre, radius = (site.centre, site.size) if site else (None, rng.uniform(10, 20))
        return ramp(blob(rng, radius, rng.uniform(0.05, 0.25), centre) * radius, -softness, softness)
    across, _ = straight_line(rng, 0.5)
    wavy = across + 1.5 * fractal_noise(rng, (2, 2), 2)
    inward = rng.uniform(4, 10) - np.abs(wavy) if form == 1 else wavy
    return ramp(inward, -softness, softness)
