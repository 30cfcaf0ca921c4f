"""The distributions as a picture: a row for each block, twin peaks and channel ranges drawn and named."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgeq.files import atomic_write
from edgeq.plan.figure import encoded, figure_of
from edgeq.quantize.distributions.advice import Form
from edgeq.quantize.distributions.measure import Distributions, TensorDistribution
from edgeq.quantize.distributions.peaks import binned

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "draw_distributions"]

COLOURS: Final[dict[Form, str]] = {
    "INT8 per tensor": "#3b6ea8",
    "INT8 after folding": "#8d6a9f",
    "twin-uniform": "#e0a458",
    "float": "#a63d40",
}
"""One colour for each recommendation."""

_COLUMNS: Final = (("softmax",), ("GELU",), ("LayerNorm",), ("query", "key", "value"))
_WIDTH, _ROW = 15.0, 1.9  # inches
_SMALL: Final = 6.5  # points
_DASHES: Final = ("-", "--", ":")


def draw_distributions(distributions: Distributions, path: Path) -> None:
    """Draw every block's tensors, coloured by what is recommended.

    The same distributions give the same bytes with the same matplotlib.

    Args:
        distributions: of one block at least.
        path: ends in `.svg` or `.png`.

    Raises:
        OutputError: the file cannot be written.
    """
    with figure_of(_WIDTH, 0.6 + _ROW * distributions.blocks) as figure:
        grid = figure.subplots(distributions.blocks, len(_COLUMNS), squeeze=False)
        for block, row in enumerate(grid):
            tensors = distributions.of_block(block)
            for axes, roles in zip(row, _COLUMNS, strict=True):
                _draw(axes, [tensor for tensor in tensors if tensor.role in roles])
            row[0].set_ylabel(f"block {block}")
        for axes, roles in zip(grid[-1], _COLUMNS, strict=True):
            axes.set_xlabel("LayerNorm: range of each channel" if roles == ("LayerNorm",) else ", ".join(roles))
        _legend(figure)
        atomic_write(path, encoded(figure, path))


def _legend(figure: Figure) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=form) for form, colour in COLOURS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=_SMALL, frameon=False)


def _draw(axes: Axes, tensors: list[TensorDistribution]) -> None:
    axes.tick_params(labelsize=_SMALL)
    axes.spines[["top", "right"]].set_visible(False)
    for number, tensor in enumerate(tensors):
        colour = COLOURS[tensor.advice.form]
        if tensor.channels is not None:
            _draw_channels(axes, tensor, colour, number)
        else:
            _draw_counts(axes, tensor, colour, _DASHES[number % len(_DASHES)], fill=len(tensors) == 1)
    axes.set_title("\n".join(map(_title, tensors)), loc="left", fontsize=_SMALL)


def _draw_counts(axes: Axes, tensor: TensorDistribution, colour: str, dashes: str, *, fill: bool) -> None:
    """Shares of the values on a logarithmic scale, and the peaks of what has two."""
    shares, edges = binned(tensor.histogram.unpack(tensor.minimum, tensor.maximum))
    axes.stairs(shares, edges, fill=fill, color=colour, linestyle=dashes, alpha=0.6 if fill else 1.0)
    axes.set_yscale("log")
    axes.minorticks_off()
    if not fill:
        return
    for peak in tensor.peaks:
        axes.axvline(peak.position, color="#444444", linewidth=0.7, linestyle="--")
        axes.annotate(
            f"{peak.share:.1%}",
            (peak.position, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(2, -7),
            textcoords="offset points",
            fontsize=_SMALL,
        )


def _draw_channels(axes: Axes, tensor: TensorDistribution, colour: str, number: int) -> None:
    """The range of every channel, the widest first."""
    assert tensor.channels is not None
    ranges = sorted(
        zip(tensor.channels.lowest, tensor.channels.highest, strict=True), key=lambda pair: pair[0] - pair[1]
    )
    lowest, highest = zip(*ranges, strict=True)
    places = range(len(ranges))
    axes.fill_between(places, lowest, highest, color=colour, alpha=0.35 + 0.3 * number, linewidth=0.0)


def _title(tensor: TensorDistribution) -> str:
    spread = "" if tensor.channels is None else f", spread {tensor.channels.spread:.1f}"
    halves = ""
    if tensor.role == "GELU":
        halves = f", {tensor.negative:.0%} in {tensor.minimum:.2f} .. 0"
    if tensor.near_zero is not None and tensor.near_one is not None:
        halves = f", {tensor.near_zero:.0%} near 0, {tensor.near_one:.2%} near 1"
    return f"{tensor.role}: {tensor.advice.form} ({tensor.advice.value:.1%}){spread}{halves}"
