"""Which layers INT8 harms, and what it costs to leave them in floating point."""

from __future__ import annotations

from edgeq.bundle_report.blocks import Block, Chart, Paragraph, Section, Table
from edgeq.bundle_report.contents import BundleContents
from edgeq.bundle_report.drawing import Bar, Mark, Point, bars, points
from edgeq.bundle_report.words import Z_95
from edgeq.quantize.search.layer_search import Search
from edgeq.quantize.search.sensitivity import Sensitivity

__all__ = ["layers_section"]

_WORST = 15
_NONE = (
    "Neither was measured for this bundle. edgeq sensitivity measures what INT8 does in each layer alone; "
    "edgeq prepare --max-drop searches for layers to leave in floating point."
)


def layers_section(contents: BundleContents) -> Section:
    """The sensitivity table and the search's frontier, where the bundle has them."""
    blocks: list[Block] = []
    if contents.sensitivity is not None and contents.sensitivity.layers:
        blocks.append(_sensitivity(contents.sensitivity))
    if contents.search is not None and contents.search.steps:
        blocks += _frontier(contents.search)
    return Section("layers", "Sensitivity of layers, and the frontier", tuple(blocks or [Paragraph(_NONE)]))


def _sensitivity(table: Sensitivity) -> Chart:
    ranked = table.ranking()
    rows = [
        Bar(
            each.layer,
            each.alone.logit_error,
            "quantized",
            f"{each.alone.logit_error:.4f}",
            low=max(0.0, each.alone.logit_error - Z_95 * each.alone.logit_error_se),
            high=each.alone.logit_error + Z_95 * each.alone.logit_error_se,
        )
        for each in ranked[:_WORST]
    ]
    drawing = bars(
        f"The {len(rows)} layers that INT8 harms most, each alone in INT8",
        "; ".join(f"{row.name} {row.text}" for row in rows),
        "relative logit error, with 95 % intervals",
        rows,
    )
    listed = (
        (
            each.layer,
            each.op,
            f"{each.alone.logit_error:.5f} ± {each.alone.logit_error_se:.5f}",
            f"{each.alone.agreement:.2f} %",
            f"{100.0 * each.gain:+.1f} ± {100.0 * each.gain_se:.1f} %",
        )
        for each in ranked
    )
    header = ("layer", "operator", "logit error alone", "same class", "gain if left out")
    return Chart(drawing, Table.of(f"Every layer ({len(ranked)})", header, listed, numbers=(2, 3, 4), folded=True))


def _frontier(search: Search) -> list[Block]:
    found = []
    for place, step in enumerate(search.steps):
        headline = step.headline
        reach = Z_95 * (headline.standard_error or 0.0)
        found.append(
            Point(
                step.share,
                headline.drop,
                headline.drop - reach,
                headline.drop + reach,
                f"{len(step.kept)} layers",
                chosen=place == search.chosen,
            )
        )
    unit = search.steps[0].headline.unit
    drawing = points(
        "The frontier: what is lost, by how much stays in floating point",
        "; ".join(f"{point.text} kept, {point.x:.1f} % of the bytes: {point.y:.2f} {unit} lost" for point in found),
        ("% of the weights' bytes in floating point", f"{unit} lost, with 95 % intervals"),
        found,
        bound=Mark(search.max_drop, f"allowed: {search.max_drop:g}"),
        key=(("quantized", "tried"), ("chosen", "chosen")),
    )
    rows = (
        (
            str(len(step.kept)),
            f"{step.share:.1f} %",
            f"{step.headline.drop:.2f}{step.headline.doubt} {step.headline.unit}",
            "" if step.speedup is None else f"{step.speedup:.2f} x",
            "chosen" if place == search.chosen else "",
        )
        for place, step in enumerate(search.steps)
    )
    header = ("layers kept", "bytes in floating point", "lost", "speedup", "")
    blocks: list[Block] = [Chart(drawing, Table.of("Steps of the search", header, rows, numbers=(0, 1, 2, 3)))]
    if search.kept:
        blocks.append(Paragraph(f"Kept in floating point: {', '.join(search.kept)}."))
    if search.check is not None:
        check = search.check.headline()
        told = f"{check.drop:.2f}{check.doubt} {check.unit} lost on {check.examples:,} examples"
        blocks.append(Paragraph(f"On images that the search had not seen: {told}."))
    return blocks
