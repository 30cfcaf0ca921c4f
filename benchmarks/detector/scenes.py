"""Photographs of concrete and steel with a box around each defect, drawn from a seed.

Surfaces, cracks, corrosion and spalling are those of the demonstration, at other sizes; shadows, rivets, welds,
scratches, joints and bolts in their places are no defects. A box encloses every pixel that its defect changes visibly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.detector import marks
from edgeq.demo import defects, surfaces
from edgeq.demo.camera import photograph
from edgeq.demo.defects import DefectSite
from edgeq.demo.surfaces import Surface
from edgeq.demo.texture import SIZE

__all__ = [
    "CALIBRATION_SEED",
    "EVALUATION_SEED",
    "LABELS",
    "SIDE",
    "TRAIN_SEED",
    "VISIBLE",
    "Boxes",
    "Scenes",
    "draw_scene",
    "draw_scenes",
    "draw_surface",
]

SIDE: Final = 160
"""Width and height of a scene in pixels."""

LABELS: Final = ("corrosion", "crack", "dent", "hole", "missing_bolt", "spalling")
"""The classes in sorted order, which is the order of the network's scores."""

TRAIN_SEED: Final = 0
CALIBRATION_SEED: Final = 1_000_000
EVALUATION_SEED: Final = 2_000_000

VISIBLE: Final = 0.03
"""A pixel belongs to a defect that changes one of its channels by more than this, of 0 to 1."""

Boxes = NDArray[np.float32]
"""[n, 5]: class, left, top, right, bottom in pixels; right and bottom are the first column and row outside."""

Draw = Callable[[np.random.Generator, Surface, DefectSite], Surface]

_STREAM = 7
_CHUNK = 50
_TRIES = 3
_FADE = 6
_SMALLEST = 5
_MIDDLE = ((SIZE - 1) / 2, (SIZE - 1) / 2)

_DRAWN: Final[dict[str, tuple[tuple[float, float], Draw]]] = {
    "corrosion": ((6, 17), defects.corrosion),
    "hairline_crack": ((18, 50), defects.hairline_crack),
    "wide_crack": ((1.8, 5.0), defects.wide_crack),
    "dent": ((6, 15), marks.dent),
    "hole": ((3.5, 11), marks.hole),
    "spalling": ((8, 19), defects.spalling),
}
"""Range of `DefectSite.size`, and who draws it."""

_ON_CONCRETE: Final = ("corrosion", "hairline_crack", "wide_crack", "hole", "spalling")
_ON_STEEL: Final = ("corrosion", "hairline_crack", "wide_crack", "dent", "dent", "hole")


@dataclass(frozen=True)
class Scenes:
    """Pixels [n, SIDE, SIDE, 3] uint8, and the boxes of each scene."""

    pixels: NDArray[np.uint8]
    boxes: tuple[Boxes, ...]


def draw_scenes(first_seed: int, count: int, workers: int = 1) -> Scenes:
    """The scenes of `count` seeds from the first one on, drawn by as many processes."""
    seeds = range(first_seed, first_seed + count)
    if workers == 1:
        drawn = [draw_scene(seed) for seed in seeds]
    else:
        with ProcessPoolExecutor(workers, get_context("spawn")) as drawers:
            drawn = list(drawers.map(draw_scene, seeds, chunksize=_CHUNK))
    return Scenes(np.stack([pixels for pixels, _ in drawn]), tuple(boxes for _, boxes in drawn))


def draw_scene(seed: int) -> tuple[NDArray[np.uint8], Boxes]:
    """One photograph, uint8 [SIDE, SIDE, 3], and its boxes."""
    surface, boxes = draw_surface(seed)
    return np.asarray(photograph(np.random.Generator(np.random.PCG64([_STREAM + 1, seed])), surface)), boxes


def draw_surface(seed: int, *, defective: bool = True) -> tuple[Surface, Boxes]:
    """What the camera looks at, float32 [SIDE, SIDE, 3].

    Args:
        seed: 0 or more.
        defective: False leaves the same surface as it was before its defects, without boxes.
    """
    rng = np.random.Generator(np.random.PCG64([_STREAM, seed]))
    on_concrete = rng.random() < 0.5
    canvas = _Canvas(rng, _background(rng, on_concrete))
    for _ in range(rng.choice(3, p=(0.4, 0.4, 0.2))):
        canvas.add("", defects.shadow, rng.uniform(10, 20), rng.uniform(8, SIDE - 8, 2))
    if not on_concrete and rng.random() < 0.5:
        _bolts(canvas)
    kinds = _ON_CONCRETE if on_concrete else _ON_STEEL
    for _ in range(rng.choice(5, p=(0.08, 0.27, 0.3, 0.2, 0.15))):
        kind = str(rng.choice(kinds))
        sizes, draw = _DRAWN[kind]
        label = "crack" if kind.endswith("crack") else kind
        for _ in range(_TRIES):
            if canvas.add(label, draw, rng.uniform(*sizes), rng.uniform(12, SIDE - 12, 2)):
                break
    boxes = np.array(canvas.boxes if defective else [], np.float32).reshape(-1, 5)
    return canvas.surface if defective else canvas.sound, boxes


class _Canvas:
    """A surface on which defects are put one by one, and the same surface without them."""

    def __init__(self, rng: np.random.Generator, surface: Surface) -> None:
        self.rng = rng
        self.surface = surface
        self.sound = surface
        self.boxes: list[tuple[float, ...]] = []

    def add(self, label: str, draw: Draw, size: float, centre: NDArray[np.float64], zoom: float = 0.0) -> bool:
        """Draw on a patch, put what it changes at `centre`; False where it would be hidden or hide another.

        Args:
            label: of its box; empty for what is no defect.
            draw: draws on a patch [SIZE, SIZE, 3].
            size: handed to it.
            centre: row and column.
            zoom: of the patch; 0 draws it.
        """
        side = round(SIZE * (zoom or self.rng.uniform(0.7, 1.5)))
        top, left = (round(value) - side // 2 for value in centre)
        wide = np.pad(self.surface, ((side, side), (side, side), (0, 0)), mode="reflect")
        patch = _resized(wide[top + side : top + 2 * side, left + side : left + 2 * side], SIZE)
        change = _resized((draw(self.rng, patch, DefectSite(_MIDDLE, size)) - patch) * _window()[..., None], side)
        layer = np.zeros_like(wide)
        layer[top + side : top + 2 * side, left + side : left + 2 * side] = change
        layer = layer[side:-side, side:-side]
        if label:
            box = _box(layer)
            if box is None or any(_shared(box, other[1:]) > 0.15 for other in self.boxes):
                return False
            self.boxes.append((LABELS.index(label), *box))
        else:
            self.sound = np.asarray(self.sound + layer, np.float32)
        self.surface = np.asarray(self.surface + layer, np.float32)
        return True


def _background(rng: np.random.Generator, on_concrete: bool) -> Surface:
    """A surface of the demonstration, larger, with grain of its own."""
    surface = _resized(surfaces.concrete(rng) if on_concrete else surfaces.steel(rng), SIDE)
    grain = rng.standard_normal((SIDE, SIDE), dtype=np.float32)
    coarse = rng.standard_normal((SIDE // 2, SIDE // 2), dtype=np.float32).repeat(2, 0).repeat(2, 1)
    return np.asarray(surface * (1 + rng.uniform(0.005, 0.03) * (grain + coarse))[..., None], np.float32)


def _bolts(canvas: _Canvas) -> None:
    """A row of bolts across the plate, of which some are lost."""
    rng = canvas.rng
    count, size, zoom = int(rng.integers(3, 6)), rng.uniform(6, 11), rng.uniform(0.9, 1.2)
    angle = rng.normal(0, 0.1) + (math.pi / 2 if rng.random() < 0.5 else 0)
    step = max(rng.uniform(24, 40), 2.6 * size * zoom)
    start = rng.uniform(0.3, 0.7, 2) * SIDE - step * (count - 1) / 2 * np.array((math.sin(angle), math.cos(angle)))
    lost = rng.uniform(0.2, 0.6)
    for index in range(count):
        centre = start + index * step * np.array((math.sin(angle), math.cos(angle)))
        if not ((centre > 6) & (centre < SIDE - 6)).all():
            continue
        label, draw = ("missing_bolt", marks.missing_bolt) if rng.random() < lost else ("", marks.bolt)
        canvas.add(label, draw, size, centre, zoom)


def _box(layer: Surface) -> tuple[float, float, float, float] | None:
    """Left, top, right and bottom of what a layer changes visibly; None where that is too little to be found."""
    seen = np.abs(layer).max(axis=-1) > VISIBLE
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    if not len(rows) or max(np.ptp(rows), np.ptp(columns)) < _SMALLEST:
        return None
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _shared(box: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Area that two boxes share, as a part of the smaller one's."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    smaller = min((each[2] - each[0]) * (each[3] - each[1]) for each in (box, other))
    return max(width, 0) * max(height, 0) / smaller


def _window() -> NDArray[np.float32]:
    """[SIZE, SIZE]: 1 inside, falling to 0 at the patch's border, so that nothing ends at a straight edge."""
    ramp = np.clip(np.minimum(np.arange(SIZE), np.arange(SIZE)[::-1]) / _FADE, 0, 1).astype(np.float32)
    return np.minimum(ramp[:, None], ramp)


def _resized(surface: Surface, side: int) -> Surface:
    """[h, w, 3] to [side, side, 3]."""
    resize = partial(Image.Image.resize, size=(side, side), resample=Image.Resampling.BICUBIC)
    planes = [resize(Image.fromarray(np.ascontiguousarray(surface[..., plane]))) for plane in range(3)]
    return np.stack([np.asarray(plane, np.float32) for plane in planes], axis=-1)
