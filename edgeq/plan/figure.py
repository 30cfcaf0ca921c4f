"""A matplotlib figure whose file has the same bytes on every run, for the charts that stand beside the tables."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["encoded", "figure_of"]

_DPI = 120


@contextmanager
def figure_of(width: float, height: float) -> Iterator[Figure]:
    """An empty figure of this size in inches; draw and encode it within."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A fixed salt for the ids in an SVG, its text as text, and the font that comes with matplotlib.
    with matplotlib.rc_context(
        {"svg.hashsalt": "edgeq", "svg.fonttype": "none", "font.family": "DejaVu Sans", "font.size": 9.0}
    ):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def encoded(figure: Figure, path: Path) -> bytes:
    """The picture in the form that the path's suffix names, .svg or .png, without a date or a version in it."""
    form = path.suffix.lower().removeprefix(".")
    buffer = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if form == "svg" else {"Software": None}
    figure.savefig(buffer, format=form, dpi=_DPI, metadata=metadata)
    return buffer.getvalue()
