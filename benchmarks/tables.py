"""The figures as plain text."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.quality import QualityRow
from benchmarks.speed import SpeedRow

__all__ = ["further_images", "quality_table", "speed_table"]

_SPEED_HEADS = (
    "tool",
    "images",
    "rounds",
    "to scales",
    "to INT8",
    "process",
    "scales GB",
    "peak GB",
    "x forward",
    "x edgeq",
)
_QUALITY_HEADS = ("network", "tool", "activations", "top-1", "same class", "logit error")


def speed_table(rows: Sequence[SpeedRow]) -> str:
    """Seconds an image, peak memory and ratios, one line a tool and number of images."""
    return _table(_SPEED_HEADS, [_speed_cells(row) for row in rows])


def quality_table(rows: Sequence[QualityRow]) -> str:
    """One line for each quantized network."""
    return _table(_QUALITY_HEADS, [_quality_cells(row) for row in rows])


def further_images(rows: Sequence[SpeedRow]) -> list[dict[str, str | float]]:
    """What each further image costs, between a tool's smallest and largest number of images.

    That leaves out what is paid once: opening the network, searching thresholds, writing the result. `seconds` is for
    an image, `memory_ratio` the larger peak over the smaller.
    """
    found: list[dict[str, str | float]] = []
    for tool in dict.fromkeys(row.tool for row in rows):
        good = [row for row in rows if row.tool == tool and row.model is not None]
        if len(good) < 2:
            continue
        few, many = good[0], good[-1]
        seconds = ((many.model or 0.0) * many.images - (few.model or 0.0) * few.images) / (many.images - few.images)
        found.append(
            {
                "tool": tool,
                "few": few.images,
                "many": many.images,
                "seconds": seconds,
                "memory_ratio": many.peak / few.peak,
            }
        )
    return found


def _speed_cells(row: SpeedRow) -> tuple[str, ...]:
    early = _number(None if row.scales_peak is None else row.scales_peak / 1e9, 2)
    peak = f"{row.peak / 1e9:.2f}"
    if row.failure:
        return (row.tool, str(row.images), str(row.rounds), row.failure, "", "", early, peak, "", "")
    seconds = (_number(value, 4) for value in (row.scales, row.model, row.process))
    ratios = (_number(value, 2) for value in (row.times_forward, row.times_edgeq))
    return (row.tool, str(row.images), str(row.rounds), *seconds, early, peak, *ratios)


def _quality_cells(row: QualityRow) -> tuple[str, ...]:
    if row.failure:
        return (row.network, row.tool, row.activations, row.failure, "", "")
    figures = (_number(row.top1, 2), _number(row.agreement, 2), _number(row.logit_error, 4))
    return (row.network, row.tool, row.activations, *figures)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[column]) for line in (heads, *rows)) for column in range(len(heads))]
    lines = (heads, ["-" * width for width in widths], *rows)
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
