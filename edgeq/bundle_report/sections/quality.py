"""FP32, or the whole model, against the quantized network: figures with their doubt, the gate, and speed."""

from __future__ import annotations

from collections.abc import Iterator

from edgeq.bundle_report.blocks import Block, Chart, Paragraph, Section, Table
from edgeq.bundle_report.contents import BundleContents
from edgeq.bundle_report.drawing import Bar, Drawing, Mark, bars
from edgeq.bundle_report.words import Z_95, confidence, in_bytes
from edgeq.quality.gate import Gate
from edgeq.quality.judge import Quality
from edgeq.quality.tasks.answer_figures import VlmQuality
from edgeq.quality.tasks.base import Headline, Row
from edgeq.quality.tasks.retrieval_gate import RetrievalGate

__all__ = ["drop_chart", "headline_of", "headlines", "quality_section", "rows_of"]

_NONE = "Nothing was judged: the bundle holds no figures of the quantized network beside {reference}."


def quality_section(contents: BundleContents) -> Section:
    """The figures, the drop with its interval, what the gate said, and how long an image took."""
    blocks: list[Block] = []
    rows = rows_of(contents)
    if rows:
        header = ("figure", contents.reference, "quantized", "difference")
        table = Table.of(f"Figures, measured with {_backend(contents)}", header, rows, numbers=(1, 2, 3))
        found = headlines(contents)
        chart = drop_chart(found, _allowed(contents))
        blocks += [Chart(chart, table)] if chart else [table]
        blocks += [Paragraph(_in_words(found[0][1], contents.reference))] if found else []
    else:
        blocks.append(Paragraph(_NONE.format(reference=contents.reference), warning=True))
    blocks += _gate(contents.gate)
    if isinstance(contents.quality, Quality):
        blocks += _speed(contents.quality)
    return Section("figures", f"{_capital(contents.reference)} against the quantized network", tuple(blocks))


def headline_of(contents: BundleContents) -> Headline | None:
    """The one figure that decides; None where nothing was compared."""
    quality, gate = contents.quality, contents.gate
    if isinstance(quality, Quality):
        return quality.headline
    if quality is not None:
        return quality.headline()
    return None if gate is None else gate.headline


def headlines(contents: BundleContents) -> list[tuple[str, Headline]]:
    """That of what the workshop runs, and those of the graphs for other backends, each with whose it is."""
    own = headline_of(contents)
    found = [] if own is None else [(_capital(own.name), own)]
    if isinstance(contents.gate, Gate):
        found += [(f"{other.headline.name}, for {other.made_for}", other.headline) for other in contents.gate.others]
    return found


def rows_of(contents: BundleContents) -> tuple[Row, ...]:
    """All figures for a table; empty where nothing was compared."""
    quality, gate = contents.quality, contents.gate
    if isinstance(quality, Quality) and quality.judged is not None:
        return (*quality.judged.rows(), *_bytes(quality))
    if quality is not None and not isinstance(quality, Quality):
        return (*_interval(quality), *quality.rows())
    if isinstance(gate, RetrievalGate):
        return gate.figures.rows()
    return gate.judged.rows() if gate is not None and gate.judged is not None else ()


def _interval(quality: VlmQuality) -> Iterator[Row]:
    """The drop with its standard error, which the rows of answers do not say."""
    headline = quality.headline()
    if headline.labelled:
        yield headline.row(f"{headline.name}, with its standard error")


def _bytes(quality: Quality) -> Iterator[Row]:
    ratio = quality.candidate_bytes / quality.reference_bytes if quality.reference_bytes else 0.0
    yield (
        "size of the ONNX file",
        in_bytes(quality.reference_bytes),
        in_bytes(quality.candidate_bytes),
        f"{ratio:.2f} x",
    )


def drop_chart(found: list[tuple[str, Headline]], allowed: float | None) -> Drawing | None:
    """The drops as intervals beside what was allowed; None where no standard error is known.

    Args:
        found: headlines, each with whose it is.
        allowed: the largest drop that passes; None for none.
    """
    known = [(name, each) for name, each in found if each.standard_error is not None]
    if not known:
        return None
    rows = []
    for name, each in known:
        reach = Z_95 * (each.standard_error or 0.0)
        text = f"{each.drop:.2f} ± {reach:.2f}"
        rows.append(Bar(name, each.drop, "quantized", text, low=each.drop - reach, high=each.drop + reach))
    unit = known[0][1].unit
    marks = (Mark(0.0, "none"),) + (() if allowed is None else (Mark(allowed, f"allowed: {allowed:g}"),))
    told = "; ".join(confidence(each.drop, each.standard_error, each.unit) for _, each in known)
    title = "What quantization loses, with 95 % intervals"
    return bars(title, told, f"{unit} lost, less is better", rows, marks=marks, intervals=True)


def _allowed(contents: BundleContents) -> float | None:
    """Of a headline from labelled examples; without labels it is in another unit, and the gate's words say it."""
    headline, gate = headline_of(contents), contents.gate
    labelled = headline is not None and headline.labelled
    return gate.max_drop if gate is not None and labelled else None


def _in_words(headline: Headline, reference: str) -> str:
    if not headline.labelled:
        return (
            f"No labels were given: {headline.name} beside {reference} is {headline.drop:.4f} {headline.unit}, on "
            f"{headline.examples:,} examples. That says nothing of how often either is right."
        )
    drop = confidence(headline.drop, headline.standard_error, headline.unit)
    return (
        f"{headline.name} on {headline.examples:,} examples: {reference} {headline.reference:.2f} %, quantized "
        f"{headline.candidate:.2f} %. It loses {drop}, compared example by example."
    )


def _backend(contents: BundleContents) -> str:
    """What ran the networks, as far as the bundle says it."""
    return contents.quality.backend if isinstance(contents.quality, Quality) else "what the workshop had"


def _capital(text: str) -> str:
    return text if text[1:2].isupper() else text[:1].upper() + text[1:]  # mAP stays mAP


def _gate(gate: Gate | RetrievalGate | None) -> Iterator[Block]:
    """What was decided, and why."""
    if gate is None:
        return
    kept = "INT8 was kept." if gate.passed else "INT8 was not kept: floating point took its place."
    yield Paragraph(f"The gate: {kept} {_sentences(gate.reasons)}", warning=bool(gate.objections))
    yield from (Paragraph(f"It speaks against INT8 that {each}.", warning=True) for each in gate.objections)
    if isinstance(gate, RetrievalGate):
        return
    yield from (Paragraph(f"What the figures do not show: {each}.") for each in gate.all_doubts())
    if gate.others:
        rows = (
            (each.graph, each.made_for, each.run_by, "kept" if each.kept else "not kept", each.reason)
            for each in gate.others
        )
        yield Table.of("Graphs for other backends", ("graph", "made for", "run here by", "decision", "why"), rows)
    if gate.worst_layers:
        worst = ((each.layer, each.op, f"{each.logit_error:.4f}") for each in gate.worst_layers)
        yield Table.of("Layers that lose most", ("layer", "operator", "logit error alone"), worst, numbers=(2,))


def _sentences(reasons: tuple[str, ...]) -> str:
    return " ".join(f"{_capital(each)}." for each in reasons)


def _speed(quality: Quality) -> Iterator[Block]:
    if not quality.latency:
        return
    rows = (
        (
            str(each.batch),
            f"{each.reference_ms:.3f}",
            f"{each.candidate_ms:.3f}",
            f"{each.speedup:.2f} x ({each.speedup_low:.2f} to {each.speedup_high:.2f})",
            f"{each.threads} threads, {each.rounds} rounds",
        )
        for each in quality.latency
    )
    header = ("images in a batch", "FP32, ms", "quantized, ms", "speedup (all rounds)", "how")
    yield Table.of(f"Speed on the workshop's machine, {quality.backend}", header, rows, numbers=(0, 1, 2, 3))
    yield Paragraph("Speed on the workshop's machine says nothing of a device's.")
