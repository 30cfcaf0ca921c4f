"""What a device has to hold: the memory plan as a waterfall, or the sizes of the files where there is no plan."""

from __future__ import annotations

from edgeq.bundle_report.blocks import Block, Chart, Paragraph, Section, Table
from edgeq.bundle_report.contents import BundleContents
from edgeq.bundle_report.drawing import Bar, Drawing, Kind, Mark, bars
from edgeq.bundle_report.words import in_bytes
from edgeq.plan.budget import MemoryItem, Phase
from edgeq.plan.memory import MemoryPlan

__all__ = ["memory_section", "waterfall"]

_GIGA = 1e9
_SMALL = 0.002
_LARGEST = 12
_SEEN = 0.005
_NO_PLAN = (
    "The bundle holds no memory plan: that is made for vision-language models, with --device. "
    "What the files take is what has to be loaded at the least."
)
_KEY: tuple[tuple[Kind, str], ...] = (
    ("reserve", "there anyway: system, runtime"),
    ("weights", "weights"),
    ("working", "for the work"),
)


def memory_section(contents: BundleContents) -> Section:
    """The waterfall with every item of every moment."""
    plan = contents.memory
    blocks: list[Block] = [Paragraph(_NO_PLAN), _files(contents)] if plan is None else _planned(plan)
    return Section("memory", "Memory", tuple(blocks))


def _planned(plan: MemoryPlan) -> list[Block]:
    request = plan.request
    room = (
        f"It {'fits' if plan.fits else 'does not fit'} {plan.device.title}: {plan.reason}. Reckoned for "
        f"{request.batch} at once, a context of {request.context:,} tokens and {request.images} images in each."
    )
    blocks: list[Block] = [Paragraph(room, warning=not plan.fits)]
    rows = [(phase.name, item.name, in_bytes(item.bytes), item.how) for phase in plan.phases for item in phase.items]
    header = ("while", "what", "size", "how it was reckoned")
    table = Table.of("Every item", header, rows, numbers=(2,), folded=True)
    blocks.append(Chart(waterfall(plan), table))
    source = f"The device's figures: {plan.device.source}. Nothing here was measured on the device."
    return [*blocks, Paragraph(source)]


def waterfall(plan: MemoryPlan, title: str = "") -> Drawing:
    """The tightest moment from the system's reserve up to the need, each item from where the one before it ends.

    Args:
        plan: of the memory.
        title: above it; empty for one of its own.
    """
    rows, place = list[Bar](), 0.0
    for item in _items(plan, plan.tightest):
        size = item.bytes / _GIGA
        rows.append(Bar(item.name, size, _kind(item), f"{size:.2f}", start=place))
        place += size
    total = plan.device.total_bytes / _GIGA
    told = ", ".join(f"{row.name} {row.text}" for row in rows)
    verdict = "fits" if plan.fits else "does not fit"
    return bars(
        title or f"Memory while {plan.tightest.name}: {verdict} {plan.device.title}",
        f"From {place:.2f} GB needed, of {total:.2f} GB: {told}.",
        "GB (10^9 bytes)",
        rows,
        marks=(Mark(total, f"device: {total:.2f} GB"),),
        key=_KEY,
    )


def _items(plan: MemoryPlan, phase: Phase) -> list[MemoryItem]:
    """The reserve, then what is large enough to be seen, then the rest in one."""
    least = _SMALL * plan.device.total_bytes
    small = [item for item in phase.items if item.bytes < least]
    rest = MemoryItem(name="the rest", bytes=sum(item.bytes for item in small), how="")
    reserve = MemoryItem(name="system and others", bytes=plan.device.reserve_bytes, how="")
    return [reserve, *(item for item in phase.items if item.bytes >= least), *([rest] if small else [])]


def _kind(item: MemoryItem) -> Kind:
    if item.name in ("system and others", "runtime"):
        return "reserve"
    return "weights" if item.name.endswith(" weights") and item.name != "unpacked weights" else "working"


def _files(contents: BundleContents) -> Chart:
    """The largest files."""
    largest = sorted(contents.sizes.items(), key=lambda entry: (-entry[1], entry[0]))[:_LARGEST]
    largest = [(name, size) for name, size in largest if size >= _SEEN * contents.total_bytes]
    rows = [
        Bar(name, size / 1e6, "weights" if ".onnx" in name or "safetensors" in name else "working", in_bytes(size))
        for name, size in largest
    ]
    told = "; ".join(f"{row.name} {row.text}" for row in rows)
    drawing = bars("The largest files", told, "MB (10^6 bytes)", rows, key=_KEY[1:2])
    listed = ((name, f"{size:,}") for name, size in sorted(contents.sizes.items()))
    title = f"All files, {in_bytes(contents.total_bytes)}"
    return Chart(drawing, Table.of(title, ("file", "bytes"), listed, numbers=(1,), folded=True))
