"""The frontier of a search as a picture: points of the headline lost against the bytes, or the speed, that it costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgeq.files import atomic_write
from edgeq.plan.figure import encoded, figure_of
from edgeq.quantize.search.layer_search import Search, SearchStep

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["FRONTIER_CHART", "draw_frontier"]

FRONTIER_CHART: Final = "frontier.svg"
"""The chart's name in a bundle."""

_TRIED, _CHOSEN, _BOUND = "#3b6ea8", "#c8553d", "#888888"


def draw_frontier(search: Search, path: Path) -> None:
    """Draw every step with its standard error and the number of layers kept, the one chosen in red.

    The same search gives the same bytes with the same matplotlib.

    Args:
        search: with one step at least.
        path: ends in `.svg` or `.png`.

    Raises:
        OutputError: the file cannot be written.
    """
    timed = all(step.speedup is not None for step in search.steps)
    with figure_of(8.0 if timed else 5.0, 4.0) as figure:
        panels = figure.subplots(1, 2 if timed else 1, sharey=True, squeeze=False)[0]
        _draw(panels[0], search, "bytes in floating point, %", _share)
        if timed:
            _draw(panels[1], search, "times FP32's speed at batch 1", _speedup)
        headline = search.steps[0].headline
        panels[0].set_ylabel(f"{headline.unit} of {headline.name} lost where layers were searched")
        panels[0].set_title("Layers kept in floating point", loc="left")
        panels[0].legend(loc="upper right", fontsize=8)
        atomic_write(path, encoded(figure, path))


def _share(step: SearchStep) -> float:
    return step.share


def _speedup(step: SearchStep) -> float:
    return step.speedup or 0.0


def _draw(axes: Axes, search: Search, label: str, cost: Callable[[SearchStep], float]) -> None:
    for place, step in enumerate(search.steps):
        chosen = place == search.chosen
        axes.errorbar(
            cost(step),
            step.headline.drop,
            yerr=step.headline.standard_error or 0.0,
            fmt="o",
            color=_CHOSEN if chosen else _TRIED,
            elinewidth=0.8,
            label="chosen" if chosen else None,
        )
        at = (cost(step), step.headline.drop)
        axes.annotate(str(len(step.kept)), at, xytext=(4, 4), textcoords="offset points", fontsize=7)
    axes.axhline(search.max_drop, color=_BOUND, linewidth=0.8, linestyle="--", label="allowed")
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)
