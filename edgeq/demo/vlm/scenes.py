"""Scenes whose finding is known: kind, place and severity are drawn from a seed, and the picture after them.

Sizes come from ranges with room between them, so that the severity can be seen and is not a matter of a threshold, and
the middle of a damage stays clear of the lines between the nine places. All of them are pixels of a scene of 64 x 64.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from edgeq.demo.defects import DefectSite
from edgeq.demo.scenes import KINDS, check, draw_scene
from edgeq.demo.vlm.report import PLACES, SEVERITIES, DefectFinding

__all__ = ["choose", "draw_finding"]

Range = tuple[float, float]

_ROUND: tuple[Range, ...] = ((5.5, 7.5), (10.5, 12.5), (18.0, 21.0))

_SIZES: dict[str, tuple[Range, ...]] = {
    "hairline_crack": ((14, 18), (26, 31), (44, 52)),
    "wide_crack": ((1.6, 2.0), (3.1, 3.6), (5.0, 5.8)),
    "corrosion": _ROUND,
    "spalling": _ROUND,
}
"""Length, width or mean radius in pixels (`DefectSite.size`), from minor to severe."""

_SHADOW_SIZE: Range = (10, 20)

_THIRDS: tuple[Range, ...] = ((12.0, 17.0), (28.0, 36.0), (47.0, 52.0))
"""Rows or columns in which a middle may lie: inside the third, and not too near the border of the picture."""


def draw_finding(seed: int) -> tuple[Image.Image, DefectFinding]:
    """One RGB photograph of SIZE x SIZE pixels and what is on it; 0 or more as in `edgeq.demo.scenes`.

    Raises:
        InputError: the seed is negative.
    """
    finding, site = choose(seed)
    return draw_scene(finding.kind, seed, site), finding


def choose(seed: int) -> tuple[DefectFinding, DefectSite | None]:
    """What the scene of a seed has on it, all kinds, places and severities equally often, and where that is drawn.

    Raises:
        InputError: the seed is negative.
    """
    check(KINDS[0], seed)
    rng = np.random.Generator(np.random.PCG64([len(KINDS), seed]))  # a stream that no scene draws from
    kind = KINDS[rng.integers(len(KINDS))]
    if kind == "sound":
        return DefectFinding(kind), None
    place = int(rng.integers(len(PLACES)))
    row, column = (rng.uniform(*_THIRDS[third]) for third in divmod(place, 3))
    if kind == "shadow":
        return DefectFinding(kind, PLACES[place]), DefectSite((row, column), rng.uniform(*_SHADOW_SIZE))
    level = int(rng.integers(len(SEVERITIES)))
    site = DefectSite((row, column), rng.uniform(*_SIZES[kind][level]))
    return DefectFinding(kind, PLACES[place], SEVERITIES[level]), site
