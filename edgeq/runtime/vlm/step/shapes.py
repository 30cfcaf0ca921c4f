"""In which shapes a decode step is run: for so many slots, and over so many rows of each.

A step of the full shape reads every row of every slot, occupied or not. A narrower one reads the first slots, which
are those that are occupied, and the first rows of each: on a GPU, whose graphs have fixed shapes, one of a few lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["MOST_SHAPES", "StepShape", "narrowest_shape", "step_shapes"]

MOST_SHAPES: Final = 64
"""Each is a graph on a GPU, which takes time to capture and memory to keep."""

_SHORTEST: Final = 256
_FULL: Final = 0.8
"""A length that is as near to the full one saves nothing."""


@dataclass(frozen=True, order=True)
class StepShape:
    """What a step computes.

    Attributes:
        slots: the first so many.
        rows: of each slot that attention looks at, the first so many.
    """

    slots: int
    rows: int


def step_shapes(slots: int, rows: int, *, by_length: bool) -> tuple[StepShape, ...]:
    """All shapes of a step, the full one first and the others from large to small; `MOST_SHAPES` at most.

    Args:
        slots: there are.
        rows: that a slot has room for.
        by_length: attention looks at a fixed number of rows; False where each slot looks at its own tokens alone.
    """
    lengths = _lengths(rows, halves=True) if by_length else [rows]
    counts = _ladder(slots)
    if len(counts) * len(lengths) > MOST_SHAPES:
        lengths = _lengths(rows, halves=False)
    while len(counts) * len(lengths) > MOST_SHAPES and len(counts) > 1:
        counts = counts[:-1:2] + counts[-1:] if len(counts) > 2 else counts[-1:]
    while len(lengths) * len(counts) > MOST_SHAPES:
        lengths = lengths[1:]
    return tuple(StepShape(count, length) for length in reversed(lengths) for count in reversed(counts))


def narrowest_shape(shapes: Sequence[StepShape], slots: int, rows: int) -> StepShape:
    """The shape that reads least of those that hold so many slots and rows.

    Args:
        shapes: to choose from; the full one is among them.
        slots: that are occupied.
        rows: of the longest of them.
    """
    fit = [shape for shape in shapes if shape.slots >= slots and shape.rows >= rows]
    return min(fit, key=lambda shape: (shape.slots * shape.rows, shape.slots))


def _lengths(rows: int, *, halves: bool) -> list[int]:
    """256, 384, 512, 768, 1024, ... (without `halves` 256, 512, 1024, ...), and all rows."""
    found, length = [], _SHORTEST
    while length < _FULL * rows:
        found += [length, length * 3 // 2] if halves else [length]
        length *= 2
    return [length for length in found if length < _FULL * rows] + [rows]


def _ladder(slots: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, ... and all slots."""
    found, count = [1], 2
    while count < slots:
        found += [count, count * 3 // 2]
        count *= 2
    return sorted({count for count in found if count < slots} | {slots})
