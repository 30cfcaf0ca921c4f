"""Charts as a list of shapes, for SVG: bars, intervals and points, told apart by pattern and form, not by colour."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["Bar", "Drawing", "Kind", "Mark", "Point", "bars", "points"]

Kind = Literal["weights", "reserve", "working", "reference", "quantized", "chosen"]
"""What a shape stands for; each has a colour of Okabe and Ito's palette, and a pattern or a form of its own."""

WIDTH: Final = 720
_LABELS: Final = 200
_RIGHT: Final = 96
_ROW: Final = 26
_BAR: Final = 16
_TOP: Final = 30
_BOTTOM: Final = 40
_TICKS: Final = 5
_CHARACTERS: Final = 30
_HEIGHT: Final = 300
_LEFT: Final = 64
_CHARACTER: Final = 6.4
"""Pixels of a letter, about."""


@dataclass(frozen=True)
class Shape:
    """One shape, in pixels from the upper left corner.

    Attributes:
        form: what is drawn.
        x, y: the left upper corner of a rect, the first end of a line, the middle of a mark, a text's anchor.
        width, height: of a rect, or the way to a line's other end.
        look: a `Kind`, or what sets it apart: axis, grid, bound.
        text: of a text.
        anchor: which part of a text is at `x`.
    """

    form: Literal["rect", "line", "circle", "diamond", "text"]
    x: float
    y: float
    width: float = 0.0
    height: float = 0.0
    look: str = "axis"
    text: str = ""
    anchor: Literal["start", "middle", "end"] = "start"


@dataclass(frozen=True)
class Drawing:
    """A chart.

    Attributes:
        title: a line, which is its accessible name.
        description: the same in words, for who does not see it.
        width, height: in pixels.
        shapes: those behind first.
        key: what the looks stand for, in the order in which they are told.
    """

    title: str
    description: str
    width: int
    height: int
    shapes: tuple[Shape, ...]
    key: tuple[tuple[Kind, str], ...] = ()


@dataclass(frozen=True)
class Bar:
    """A bar from `start` to `start + value`, or with `low` and `high` an interval around `value`.

    Attributes:
        name: beside it.
        value: its length, or its middle.
        kind: how it looks.
        text: behind it, which says the value.
        start: where it begins.
        low, high: ends of the interval; None for none.
    """

    name: str
    value: float
    kind: Kind
    text: str
    start: float = 0.0
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Mark:
    """A line across all bars, or all points, at a value, with what it is."""

    value: float
    text: str


@dataclass(frozen=True)
class Point:
    """A point with its interval in y.

    Attributes:
        x, y: its values.
        low, high: ends of the interval of y.
        text: beside it.
        chosen: it is the one that was chosen.
    """

    x: float
    y: float
    low: float
    high: float
    text: str
    chosen: bool = False


def bars(
    title: str,
    description: str,
    axis: str,
    rows: Sequence[Bar],
    *,
    marks: Sequence[Mark] = (),
    intervals: bool = False,
    key: tuple[tuple[Kind, str], ...] = (),
) -> Drawing:
    """A bar for each row, from above to below.

    Args:
        title, description: as in `Drawing`.
        axis: what the values are, with their unit.
        rows: one at least.
        marks: lines across.
        intervals: draw each value as a mark with its interval, and no bar.
        key: what the kinds stand for.
    """
    ends = [end for row in rows for end in _ends(row, intervals)] + [mark.value for mark in marks]
    scale = _Scale.of(min(0.0, *ends), max(0.0, *ends), _LABELS, WIDTH - _RIGHT)
    bottom = _TOP + _ROW * len(rows)
    shapes = [*_across(scale, _TOP, bottom), *_axis_title(axis, bottom)]
    for place, row in enumerate(rows):
        shapes += _row(row, scale, _TOP + _ROW * place + _ROW / 2, intervals)
    shapes += _marks(marks, scale, bottom)
    return Drawing(title, description, WIDTH, bottom + _BOTTOM, tuple(shapes), key)


def points(
    title: str,
    description: str,
    axes: tuple[str, str],
    found: Sequence[Point],
    *,
    bound: Mark | None = None,
    key: tuple[tuple[Kind, str], ...] = (),
) -> Drawing:
    """A point with its interval for each of `found`.

    Args:
        title, description: as in `Drawing`.
        axes: what x and y are.
        found: one at least.
        bound: a line at a value of y.
        key: what the kinds stand for.
    """
    heights = [end for point in found for end in (point.low, point.high)] + ([bound.value] if bound else [])
    across = _Scale.of(0.0, max(0.0, *(point.x for point in found)), _LEFT, WIDTH - _RIGHT)
    up = _Scale.of(min(0.0, *heights), max(0.0, *heights), _HEIGHT, _TOP)
    shapes = [*_across(across, _TOP, _HEIGHT), *_axis_title(axes[0], _HEIGHT)]
    for tick in up.ticks:
        y = up(tick)
        shapes += [
            Shape("line", _LEFT, y, WIDTH - _RIGHT - _LEFT, 0, look="grid"),
            Shape("text", _LEFT - 8, y + 4, text=_number(tick), anchor="end"),
        ]
    shapes.append(Shape("text", 4, 16, text=axes[1]))
    if bound is not None:
        y = up(bound.value)
        shapes += [
            Shape("line", _LEFT, y, WIDTH - _RIGHT - _LEFT, 0, look="bound"),
            Shape("text", WIDTH - _RIGHT + 6, y + 4, text=bound.text),
        ]
    for point in found:
        x, y, kind = across(point.x), up(point.y), "chosen" if point.chosen else "quantized"
        shapes += [
            Shape("line", x, up(point.low), 0, up(point.high) - up(point.low), look="whisker"),
            Shape("diamond" if point.chosen else "circle", x, y, look=kind),
            Shape("text", x + 9, y - 7, text=point.text),
        ]
    return Drawing(title, description, WIDTH, _HEIGHT + _BOTTOM, tuple(shapes), key)


def _ends(row: Bar, intervals: bool) -> Iterator[float]:
    yield from (end for end in (row.low, row.high) if end is not None)
    yield from (row.value,) if intervals else (row.start, row.start + row.value)


def _row(row: Bar, scale: _Scale, middle: float, intervals: bool) -> Iterator[Shape]:
    """The name, the bar or the mark, the interval, and the value behind them."""
    yield Shape("text", _LABELS - 10, middle + 4, text=_short(row.name), anchor="end")
    end = scale(row.value) if intervals else max(scale(row.start), scale(row.start + row.value))
    if not intervals:
        left = min(scale(row.start), scale(row.start + row.value))
        yield Shape("rect", left, middle - _BAR / 2, max(end - left, 1.0), _BAR, look=row.kind)
    if row.low is not None and row.high is not None:
        low, high = scale(row.low), scale(row.high)
        end = max(end, high)
        yield Shape("line", low, middle, high - low, 0, look="whisker")
        yield from (Shape("line", x, middle - 5, 0, 10, look="whisker") for x in (low, high))
    if intervals:
        yield Shape("diamond" if row.kind == "quantized" else "circle", scale(row.value), middle, look=row.kind)
    behind = WIDTH - _RIGHT if intervals else end  # lines across would stand in it
    yield Shape("text", behind + 8, middle + 4, text=row.text)


def _across(scale: _Scale, top: float, bottom: float) -> Iterator[Shape]:
    """Lines of the grid from above to below, with their values."""
    for tick in scale.ticks:
        yield Shape("line", scale(tick), top, 0, bottom - top, look="grid")
        yield Shape("text", scale(tick), bottom + 16, text=_number(tick), anchor="middle")


def _axis_title(text: str, bottom: float) -> Iterator[Shape]:
    yield Shape("text", WIDTH - 8, bottom + 34, text=text, anchor="end")


def _marks(marks: Iterable[Mark], scale: _Scale, bottom: float) -> Iterator[Shape]:
    for mark in marks:
        x, wide = scale(mark.value), _CHARACTER * len(mark.text) / 2
        yield Shape("line", x, _TOP - 6, 0, bottom - _TOP + 6, look="bound")
        yield Shape("text", min(max(x, wide), WIDTH - wide), _TOP - 12, text=mark.text, anchor="middle")


@dataclass(frozen=True)
class _Scale:
    """Values to pixels, with round values in between."""

    low: float
    high: float
    first: float
    last: float
    ticks: tuple[float, ...]

    @classmethod
    def of(cls, low: float, high: float, first: float, last: float) -> _Scale:
        if not (math.isfinite(low) and math.isfinite(high)) or high - low < 1e-12:
            low, high = 0.0, 1.0
        rough = (high - low) / _TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
        start, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        return cls(start * step, end * step, first, last, tuple(place * step for place in range(start, end + 1)))

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.first + min(max(share, 0.0), 1.0) * (self.last - self.first), 2)


def _number(value: float) -> str:
    return f"{value:g}" if abs(value) < 1e6 else f"{value:.2g}"


def _short(name: str) -> str:
    """A name that has room beside a bar; of a long one its end, where layers differ."""
    return name if len(name) <= _CHARACTERS else f"…{name[1 - _CHARACTERS :]}"
