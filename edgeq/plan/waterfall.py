"""The memory plan as a picture: what adds up to the need, beside what the device has. The same bytes every time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgeq.files import atomic_write
from edgeq.plan.budget import MemoryItem
from edgeq.plan.figure import encoded, figure_of
from edgeq.plan.memory import MemoryPlan

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_waterfall", "save_waterfall"]

_GIGA: Final = 1e9
_COLOURS: Final = {"weights": "#3465a4", "reserve": "#888a85", "working": "#f57900"}
_SHOWN: Final = 0.002


def save_waterfall(plan: MemoryPlan, path: Path) -> None:
    """Write the chart of `plan` as SVG, atomically."""
    atomic_write(path, draw_waterfall(plan))


def draw_waterfall(plan: MemoryPlan) -> bytes:
    """The tightest moment of `plan` from the system's reserve up to the need, item by item, as SVG.

    Sizes are in GB (1e9 bytes). The line is the device's memory. Items below 0.2 % of it are drawn together.
    """
    bars = _bars(plan)
    with figure_of(9.0, 0.36 * len(bars) + 1.6) as figure:
        axes = figure.add_subplot()
        _draw(axes, bars)
        _explain(axes, plan)
        return encoded(figure, Path("waterfall.svg"))


def _bars(plan: MemoryPlan) -> list[MemoryItem]:
    """The system's reserve, then the items of the tightest moment; the small ones as one."""
    least = _SHOWN * plan.device.total_bytes
    items = plan.tightest.items
    small = [item for item in items if item.bytes < least]
    others = MemoryItem(name="the rest", bytes=sum(item.bytes for item in small), how="")
    reserve = MemoryItem(name="system and others", bytes=plan.device.reserve_bytes, how="")
    return [reserve, *(item for item in items if item.bytes >= least), *([others] if small else [])]


def _draw(axes: Axes, bars: list[MemoryItem]) -> None:
    """Each item begins where the one above it ends."""
    place = 0.0
    for row, item in enumerate(bars):
        size = item.bytes / _GIGA
        axes.barh(row, size, left=place, color=_colour(item), height=0.7)
        axes.text(place + size, row, f" {size:.2f}", va="center", fontsize=8)
        place += size
    axes.set_yticks(range(len(bars)), [item.name for item in bars], fontsize=9)
    axes.invert_yaxis()


def _colour(item: MemoryItem) -> str:
    """Blue for weights, grey for what is there anyway, orange for the work."""
    if item.name in ("system and others", "runtime"):
        return _COLOURS["reserve"]
    stored = item.name.endswith(" weights") and item.name != "unpacked weights"
    return _COLOURS["weights" if stored else "working"]


def _explain(axes: Axes, plan: MemoryPlan) -> None:
    """Title, the device's memory as a line, and the axis."""
    total = plan.device.total_bytes / _GIGA
    need = (plan.needed_bytes + plan.device.reserve_bytes) / _GIGA
    axes.axvline(total, color="#cc0000", linewidth=1.2)
    place = axes.get_xaxis_transform()
    axes.text(total, 1.01, f"{total:.2f} GB", color="#cc0000", ha="center", va="bottom", fontsize=8, transform=place)
    axes.set_xlim(0, 1.12 * max(total, need))
    axes.set_xlabel(f"GB while {plan.tightest.name}", fontsize=9)
    verdict = "fits" if plan.fits else "does not fit"
    axes.set_title(f"{plan.model} {verdict} {plan.device.title}: {need:.2f} of {total:.2f} GB", fontsize=10, pad=18)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
