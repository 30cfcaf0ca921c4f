"""What the demonstration's scenes do not have: holes, dents, bolts and the holes that lost bolts leave.

Drawn like `edgeq.demo.defects`: on a surface [SIZE, SIZE, 3], at a site, nothing given is changed.
"""

from __future__ import annotations

import math

import numpy as np

from edgeq.demo.defects import DefectSite, darkened
from edgeq.demo.surfaces import Surface
from edgeq.demo.texture import COLUMNS, ROWS, Field, fractal_noise, ramp, relief_light

__all__ = ["bolt", "dent", "hole", "missing_bolt"]


def hole(rng: np.random.Generator, surface: Surface, site: DefectSite) -> Surface:
    """Punched or rusted through: nearly black, an uneven outline, a lit burr on the side that faces the light.

    Args:
        rng: draws everything but place and size.
        surface: float32 [SIZE, SIZE, 3], 0 to 1; not changed.
        site: its middle and mean radius, in pixels.
    """
    inward = site.size - _reach(rng, site, stretch=1.3) + rng.uniform(0.3, 1.2) * fractal_noise(rng, (5, 5), 2)
    gap = ramp(inward, -0.6, 0.6)
    lit = surface * relief_light(-ramp(inward, -2.5, 0.5), rng.uniform(0.5, 1.0))[..., None]
    return darkened(np.asarray(lit, np.float32), gap * rng.uniform(0.75, 0.95))


def dent(rng: np.random.Generator, surface: Surface, site: DefectSite) -> Surface:
    """A hollow in a plate: no colour of its own, dark on the side of the light and bright on the other.

    Args:
        rng, surface, site: as for `hole`.
    """
    reach = _reach(rng, site, stretch=1.5) / site.size
    hollow = -site.size * np.square(np.clip(1 - np.square(reach), 0, 1))
    return np.asarray(surface * relief_light(np.asarray(hollow, np.float32), rng.uniform(0.2, 0.45))[..., None])


def bolt(rng: np.random.Generator, surface: Surface, site: DefectSite) -> Surface:
    """A hexagonal head on its washer.

    Args:
        rng, surface, site: as for `hole`; the radius is the washer's.
    """
    plate = washer(rng, surface, site)
    head = ramp(0.72 * site.size - _hexagon(rng, site), -0.6, 0.6)
    top = plate * (1 + head * rng.uniform(-0.15, 0.15))[..., None]
    return np.asarray(top * relief_light(head * np.float32(site.size / 4), 0.6)[..., None], np.float32)


def missing_bolt(rng: np.random.Generator, surface: Surface, site: DefectSite) -> Surface:
    """The washer's clean print and the empty hole in its middle.

    Args:
        rng, surface, site: as for `hole`; the radius is the washer's.
    """
    plate = washer(rng, surface, site)
    reach = np.hypot(ROWS - site.centre[0], COLUMNS - site.centre[1])
    return darkened(plate, ramp(rng.uniform(0.4, 0.5) * site.size - reach, -0.6, 0.6) * rng.uniform(0.7, 0.9))


def washer(rng: np.random.Generator, surface: Surface, site: DefectSite) -> Surface:
    """A disc a little brighter or darker than the surface, with a dark rim."""
    reach = np.hypot(ROWS - site.centre[0], COLUMNS - site.centre[1])
    disc = ramp(site.size - reach, -0.6, 0.6)
    rim = np.exp(-np.square((reach - site.size) / 0.8))
    tone = 1 + disc * rng.choice((-1, 1)) * rng.uniform(0.08, 0.2) - rng.uniform(0.2, 0.4) * rim
    return np.asarray(surface * tone[..., None], np.float32)


def _reach(rng: np.random.Generator, site: DefectSite, stretch: float) -> Field:
    """Distance from the middle of an ellipse of the site's mean radius, in pixels; `stretch` is its most."""
    angle, long = rng.uniform(0, math.pi), rng.uniform(1, stretch) ** 0.5
    down, across = ROWS - site.centre[0], COLUMNS - site.centre[1]
    along = across * math.cos(angle) + down * math.sin(angle)
    aside = down * math.cos(angle) - across * math.sin(angle)
    return np.asarray(np.hypot(along / long, aside * long), np.float32)


def _hexagon(rng: np.random.Generator, site: DefectSite) -> Field:
    """Distance from the middle of a hexagon, such that a line of equal distance is one, in pixels."""
    turn = rng.uniform(0, math.pi / 3)
    down, across = ROWS - site.centre[0], COLUMNS - site.centre[1]
    angles = turn + np.arange(3) * math.pi / 3
    sides = [np.abs(across * math.cos(angle) + down * math.sin(angle)) for angle in angles]
    return np.asarray(np.max(sides, axis=0) / math.cos(math.pi / 6), np.float32)
