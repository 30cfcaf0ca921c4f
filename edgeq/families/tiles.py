"""How processors cut an image: grids of tiles, padding, whole patches. Arithmetic alone, as transformers has it.

Sizes and grids are (height, width) and (rows, columns) unless a docstring says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

__all__ = ["Size", "best_resolution", "nearest_grid", "shrunk", "tiled", "whole_tokens", "without_padding"]

Size = tuple[int, int]
"""Height and width in pixels, or rows and columns."""

_LONGEST: Final = 4096


def best_resolution(size: Size, pinpoints: list[list[int]]) -> Size:
    """The grid that keeps most of the image's pixels; among equals the one that wastes least."""
    height, width = size

    def merit(grid: list[int]) -> tuple[int, int]:
        scale = min(grid[1] / width, grid[0] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - grid[0] * grid[1]

    best = max(pinpoints, key=merit)
    return best[0], best[1]


def without_padding(size: Size, rows: int, columns: int) -> Size:
    """The rows and columns of a grid that hold the image and not the padding around it.

    Args:
        size: of the image, in pixels.
        rows, columns: of the whole grid.
    """
    height, width = size
    if width / height > columns / rows:
        rows -= (rows - int(round(height * (columns / width), 7))) // 2 * 2
    else:
        columns -= (columns - int(round(width * (rows / height), 7))) // 2 * 2
    return rows, columns


def shrunk(rows: int, columns: int, side: int, limit: str | None) -> Size:
    """Rows and columns of a grid, which LLaVA-OneVision shrinks where it is much larger than `anyres_max_N` tiles.

    Args:
        rows, columns: of the grid.
        side: rows, and columns, of one tile.
        limit: `anyres_max_N`; None for none.
    """
    if limit is None:
        return rows, columns
    ratio = math.sqrt(rows * columns / (int(limit.removeprefix("anyres_max_")) * side**2))
    return (int(rows // ratio), int(columns // ratio)) if ratio > 1.1 else (rows, columns)


def whole_tokens(size: Size, unit: int, least: int, most: int) -> Size:
    """Both sides as multiples of `unit`, with `least` to `most` pixels, the shape kept as well as that allows.

    Args:
        size: of the image, in pixels.
        unit: edge of one token, in pixels.
        least, most: pixels of the result's area.
    """
    height, width = size
    rounded = round(height / unit) * unit, round(width / unit) * unit
    if math.prod(rounded) > most:
        scale = math.sqrt(height * width / most)
        return max(unit, int(height / scale // unit) * unit), max(unit, int(width / scale // unit) * unit)
    if math.prod(rounded) < least:
        scale = math.sqrt(least / (height * width))
        return math.ceil(height * scale / unit) * unit, math.ceil(width * scale / unit) * unit
    return rounded


def tiled(size: Size, edge: int, tile: int) -> Size:
    """Rows and columns of tiles; the shorter side is rounded up to an even number before it is cut.

    Args:
        size: of the image, in pixels.
        edge: that its longer side becomes, at most 4096, in pixels.
        tile: edge of a tile, in pixels.
    """
    longest = min(edge, _LONGEST)
    short = int(longest * min(size) / max(size))
    short += short % 2
    grid = math.ceil(longest / tile), math.ceil(max(short, 1) / tile)
    return (grid[1], grid[0]) if size[1] >= size[0] else grid


def nearest_grid(size: Size, tile: int, least: int, most: int) -> Size:
    """Columns and rows of the grid whose shape is nearest to the image's.

    Of equally good shapes it is the larger one, while it is less than twice the image's area.

    Args:
        size: of the image, in pixels.
        tile: edge of a tile, in pixels.
        least, most: tiles of the grid.
    """
    best, difference = (1, 1), math.inf
    for columns, rows in _grids(least, most):
        found = abs(size[1] / size[0] - columns / rows)
        roomy = found == difference and math.prod(size) > 0.5 * tile**2 * columns * rows
        if found < difference or roomy:
            best, difference = (columns, rows), found
    return best


def _grids(least: int, most: int) -> Iterator[Size]:
    """Columns and rows of every grid of `least` to `most` tiles, small ones first."""
    pairs = [(a, b) for a in range(1, most + 1) for b in range(1, most + 1) if least <= a * b <= most]
    return iter(sorted(pairs, key=math.prod))
