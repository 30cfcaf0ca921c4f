"""Images that changed their answer, with both answers; and what was drawn side by side."""

from __future__ import annotations

from edgeq.bundle_report.blocks import Block, Paragraph, Picture, Pictures, Section, Table
from edgeq.bundle_report.changed import CHANGED, MOST_PICTURES, changed_answers
from edgeq.bundle_report.contents import BundleContents
from edgeq.runtime.canary.draw_compared import COMPARED

__all__ = ["answers_section"]

_SIDE = 720
_NOT_NAMED = (
    "The bundle does not name images whose answer changed. Here would be those of a classifier that was judged on "
    "labelled images, and of a vision-language model that was asked questions."
)


def answers_section(contents: BundleContents) -> Section:
    """Changed answers and drawings."""
    blocks: list[Block] = [*_changed(contents), *_compared(contents)]
    return Section("changed", "Images that changed their answer", tuple(blocks or [Paragraph(_NOT_NAMED)]))


def _changed(contents: BundleContents) -> list[Block]:
    found = changed_answers(contents.quality)
    if found is None:
        return []
    if not found:
        return [Paragraph("None of the examples that were judged changed its answer.")]
    blocks: list[Block] = []
    pictured = [
        Picture(source, f"{each.image}: {each.candidate} instead of {each.reference}", each.lines(contents.reference))
        for place, each in enumerate(found[:MOST_PICTURES])
        if (source := _source(contents, place, each.image)) is not None
    ]
    if pictured:
        blocks.append(Pictures(f"{len(pictured)} of {len(found)} that changed", tuple(pictured)))
    asked = any(each.question for each in found)
    header = ("image", *(("question",) if asked else ()), contents.reference, "quantized", "right")
    rows = [
        (each.image, *((each.question,) if asked else ()), each.reference, each.candidate, each.right) for each in found
    ]
    return [*blocks, Table.of(f"All that changed ({len(found)})", header, rows, folded=bool(pictured))]


def _source(contents: BundleContents, place: int, image: str) -> str | None:
    """The folder that was given, or the picture in the bundle."""
    return contents.album.named(image) or contents.album.in_bundle(f"{CHANGED}/{place}.jpg")


def _compared(contents: BundleContents) -> list[Block]:
    names = sorted(name for name in contents.sizes if name.startswith(f"{COMPARED}/") and name.endswith(".png"))
    items = tuple(
        Picture(source, f"canary {place}: FP32 on the left, quantized on the right", (("canary", str(place)),))
        for place, name in enumerate(names[:MOST_PICTURES])
        if (source := contents.album.in_bundle(name, _SIDE)) is not None
    )
    title = "Side by side: FP32 on the left, what the bundle runs on the right"
    return [Pictures(title, items, wide=True)] if items else []
