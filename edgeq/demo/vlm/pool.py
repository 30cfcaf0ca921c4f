"""Scenes drawn once for all, and the batches that training takes from them, turned over and around at random.

Drawing a scene takes a core two to four milliseconds, and a training step on it both cores four to nine: drawn afresh
for every step, a fifth of the time would go there.
A picture, its mirror images and its quarter turns are eight scenes, whose places follow.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgeq.demo.export import IMAGE_MEAN, IMAGE_STD
from edgeq.demo.scenes import KINDS, SIZE
from edgeq.demo.vlm.report import PLACES, SEVERITIES, DefectFinding
from edgeq.demo.vlm.scenes import choose, draw_finding
from edgeq.files import atomic_write

__all__ = ["Pool", "Views", "draw_pool", "normalized", "turned", "turned_place"]

Pixels = NDArray[np.uint8]

TURNS = 8
"""Bit 0 mirrors left and right, bit 1 top and bottom, bit 2 rows and columns, in this order."""

_CHUNK = 250
_PLACE_GRID = np.arange(len(PLACES)).reshape(3, 3)


@dataclass(frozen=True)
class Views:
    """A batch.

    Attributes:
        pixels: normalized float32 [n, 3, SIZE, SIZE].
        findings: what is on each.
    """

    pixels: torch.Tensor
    findings: tuple[DefectFinding, ...]

    def classes(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Kind, place and severity as indices, int64 [n]; -100, which losses leave out, where there is none."""
        rows = [
            (KINDS.index(found.kind), _index(PLACES, found.place), _index(SEVERITIES, found.severity))
            for found in self.findings
        ]
        kind, place, severity = torch.tensor(rows).unbind(dim=1)
        return kind, place, severity


@dataclass(frozen=True)
class Pool:
    """Scenes [n, SIZE, SIZE, 3] uint8 and what is on each of them."""

    pixels: Pixels
    findings: tuple[DefectFinding, ...]

    def views(self, start: int, stop: int) -> Views:
        """Some of the scenes in order, as they were drawn."""
        return Views(normalized(self.pixels[start:stop]), self.findings[start:stop])

    def sample(self, count: int, rng: np.random.Generator) -> Views:
        """A random batch, every scene turned at random."""
        chosen, turns = rng.integers(len(self.pixels), size=count), rng.integers(TURNS, size=count)
        pixels = np.stack([turned(self.pixels[index], turn) for index, turn in zip(chosen, turns, strict=True)])
        findings = (self.findings[index] for index in chosen)
        return Views(normalized(pixels), tuple(map(_finding_turned, findings, turns.tolist())))


def draw_pool(first_seed: int, count: int, workers: int, cache: Path | None = None) -> Pool:
    """Scenes of `count` seeds from the first one on.

    Args:
        first_seed: seed of the first scene.
        count: how many scenes; 12 kB of memory each.
        workers: processes that draw.
        cache: a .npy file that keeps the pixels; written when it does not hold as many.
    """
    findings = tuple(choose(seed)[0] for seed in range(first_seed, first_seed + count))
    stored = np.load(cache) if cache and cache.exists() else np.empty((0, SIZE, SIZE, 3), np.uint8)
    if len(stored) != count:
        stored = _drawn(first_seed, count, workers)
        if cache:
            atomic_write(cache, partial(np.save, arr=stored))
    return Pool(stored, findings)


def _drawn(first_seed: int, count: int, workers: int) -> Pixels:
    """The pixels of some seeds in order, drawn in this process when there is one worker."""
    seeds = range(first_seed, first_seed + count)
    if workers == 1:
        return np.stack([_scene_pixels(seed) for seed in seeds])
    with ProcessPoolExecutor(workers, get_context("spawn")) as drawers:
        return np.stack(list(drawers.map(_scene_pixels, seeds, chunksize=_CHUNK)))


def _scene_pixels(seed: int) -> Pixels:
    """The pixels of one scene."""
    return np.asarray(draw_finding(seed)[0])


def normalized(pixels: Pixels) -> torch.Tensor:
    """What the image processor makes of pictures of the right size: uint8 [n, h, w, 3] to float32 [n, 3, h, w]."""
    mean, deviation = torch.tensor(IMAGE_MEAN), torch.tensor(IMAGE_STD)
    return ((torch.from_numpy(pixels).float() / 255 - mean) / deviation).permute(0, 3, 1, 2).contiguous()


def turned(cells: NDArray[np.generic], turn: int) -> NDArray[np.generic]:
    """Cells [rows, columns, ...] of any dtype mirrored and swapped as `TURNS` says; a view, further axes stay."""
    cells = cells[:, ::-1] if turn & 1 else cells
    cells = cells[::-1] if turn & 2 else cells
    return cells.swapaxes(0, 1) if turn & 4 else cells


def turned_place(place: str, turn: int) -> str:
    """Where a place lies after the picture is turned."""
    return PLACES[int(np.flatnonzero(turned(_PLACE_GRID, turn) == PLACES.index(place))[0])]


def _finding_turned(finding: DefectFinding, turn: int) -> DefectFinding:
    """The finding on the turned picture."""
    return (
        DefectFinding(finding.kind, turned_place(finding.place, turn), finding.severity) if finding.place else finding
    )


def _index(names: tuple[str, ...], name: str) -> int:
    """The index of a name; -100 for no name."""
    return names.index(name) if name else -100
