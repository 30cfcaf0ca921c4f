"""The sensitivity table as a picture: a bar for each layer, in the graph's order, and the ten worst by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgeq.files import atomic_write
from edgeq.plan.figure import encoded, figure_of
from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.quantize.search.bounds import WORST
from edgeq.quantize.search.sensitivity import LayerSensitivity, Sensitivity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_sensitivity"]

COLOURS: Final = {
    Precision.INT8: "#3b6ea8",
    Precision.FP16: "#8ab17d",
    Precision.FP32: "#e0a458",
    Precision.NF4: "#8d6a9f",
}
"""One colour for each precision; told apart by brightness too."""

_HEIGHT = 5.2  # inches


def draw_sensitivity(table: Sensitivity, path: Path, *, plan: PrecisionPlan | None = None) -> None:
    """Draw each layer's logit error when it alone is INT8, with its standard error, on a logarithmic scale.

    The same table gives the same bytes with the same matplotlib.

    Args:
        table: with one layer at least.
        path: ends in `.svg` or `.png`.
        plan: gives each bar the colour of the precision that the layer has in it; without it all are INT8.

    Raises:
        OutputError: the file cannot be written.
    """
    with figure_of(max(8.0, 2.5 + 0.16 * len(table.layers)), _HEIGHT) as figure:
        axes = figure.add_subplot()
        _draw_bars(axes, table, plan)
        _name_worst(axes, table)
        _label(axes, table)
        atomic_write(path, encoded(figure, path))


def _draw_bars(axes: Axes, table: Sensitivity, plan: PrecisionPlan | None) -> None:
    planned = {} if plan is None else {decision.layer: decision.precision for decision in plan.decisions}
    precisions = [planned.get(line.layer, Precision.INT8) for line in table.layers]
    for precision in sorted(set(precisions), key=list(COLOURS).index):
        places = [place for place, found in enumerate(precisions) if found is precision]
        lines = [table.layers[place] for place in places]
        axes.bar(
            places,
            [line.alone.logit_error for line in lines],
            yerr=[line.alone.logit_error_se for line in lines],
            color=COLOURS[precision],
            label=precision.value,
            error_kw={"elinewidth": 0.8, "ecolor": "#444444"},
        )
    if any(line.alone.logit_error > 0.0 for line in table.layers):
        axes.set_yscale("log")


def _name_worst(axes: Axes, table: Sensitivity) -> None:
    """Names above the ten tallest bars, upright so that neighbours do not overlap."""
    places = {line.layer: place for place, line in enumerate(table.layers)}
    for line in table.ranking()[:WORST]:
        axes.annotate(
            _short(line),
            (places[line.layer], line.alone.logit_error + line.alone.logit_error_se),
            xytext=(0, 3),
            textcoords="offset points",
            rotation=90,
            ha="center",
            va="bottom",
            fontsize=7,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
            parse_math=False,
        )


def _short(line: LayerSensitivity) -> str:
    """The last parts of a long name, which tell layers of one network apart."""
    name = line.layer.strip("/")
    return name if len(name) <= 28 else f"…{name[-27:]}"


def _label(axes: Axes, table: Sensitivity) -> None:
    axes.set_title("Each layer alone in INT8: what it does to the logits", loc="left")
    axes.set_xlabel("INT8 layers with weights, from the input to the output")
    axes.set_ylabel("relative logit error")
    axes.margins(x=0.01, y=0.35)
    axes.axhline(table.int8.logit_error, color="#888888", linewidth=0.8, linestyle="--", label="all INT8")
    axes.legend(loc="upper right", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
