"""Records of what edgeq makes: the one place where artifacts become params, metrics and files of a tracker."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Final

from edgeq import __version__
from edgeq.bundle.manifest import MANIFEST, Manifest
from edgeq.bundle_report.card import CARD
from edgeq.bundle_report.contents import BundleContents, read_contents
from edgeq.bundle_report.document import bundle_document
from edgeq.bundle_report.markdown import as_markdown
from edgeq.bundle_report.sections.quality import headline_of
from edgeq.quality.gate import Gate
from edgeq.quality.judge import Quality
from edgeq.quality.tasks.base import Headline
from edgeq.quantize.search.layer_search import Search
from edgeq.quantize.search.sensitivity import TABLE, Sensitivity
from edgeq.track.base import Record

__all__ = ["bundle_record", "flat", "search_record", "sensitivity_record"]

_FILES: Final = (
    CARD,
    *("quality.json", "gate.json", "memory.json", "export.json", "vision.json", "search.json"),
    *("sensitivity.json", "frontier.svg", "sensitivity.svg"),
)
"""Of a bundle, besides its plans; weights stay where they are."""

_OTHER: Final = re.compile(r"[^A-Za-z0-9_./-]+")
_WORST: Final = 20


def bundle_record(bundle: Path, manifest: Manifest, given: Mapping[str, Any], seconds: float) -> Record:
    """What is known of a bundle that was just made.

    Args:
        bundle: its directory.
        manifest: what it says.
        given: what it was made from, and how, besides what the bundle itself tells.
        seconds: that it took.
    """
    contents = read_contents(bundle, bundle.resolve().name, manifest)
    return Record(
        name=contents.name,
        params={**flat(given), **dict(_params(contents))},
        metrics={"seconds": seconds, **dict(_metrics(contents))},
        series={**_layers(contents.sensitivity), **_steps(contents.search)},
        summary=as_markdown(bundle_document(contents)),
        files=(bundle / MANIFEST, *(bundle / name for name in (*_FILES, *contents.plans) if name in contents.sizes)),
    )


def sensitivity_record(table: Sensitivity, given: Mapping[str, Any], charts: tuple[Path, ...] = ()) -> Record:
    """What INT8 does to each layer, and to all of them.

    Args:
        table: of the layers.
        given: what it was measured on, and how.
        charts: files that were drawn of it.
    """
    whole = table.int8
    metrics = {
        "layers": float(len(table.layers)),
        "int8/logit_error": whole.logit_error,
        "int8/logit_error_se": whole.logit_error_se,
        "int8/same_class": whole.agreement,
    }
    if whole.top1 is not None and whole.drop is not None:
        metrics |= {"int8/top-1": whole.top1, "int8/top-1_drop": whole.drop}
    return Record(
        name="sensitivity",
        params={**flat(given), "method": table.method, "weights": table.weights, "graph_sha256": table.graph_sha256},
        metrics=metrics,
        series=_layers(table),
        summary=_ranking(table),
        texts={TABLE: table.model_dump_json(indent=1)},
        files=tuple(path for path in charts if path.suffix != ".png"),
        pictures=tuple(path for path in charts if path.suffix == ".png"),
    )


def search_record(search: Search, table: Sensitivity | None, given: Mapping[str, Any]) -> Record:
    """What a search for layers to keep in floating point tried, and what it chose.

    Args:
        search: its steps.
        table: of the layers; None where none was measured.
        given: what it was made on, and how.
    """
    return Record(
        name="search",
        params=flat(given),
        metrics=dict(_searched(search)),
        series={**_layers(table), **_steps(search)},
        summary="" if table is None else _ranking(table),
        texts={"search.json": search.model_dump_json(indent=1)},
    )


def flat(given: Mapping[str, Any]) -> dict[str, str]:
    """Choices as texts: those of dataclasses one by one, such as `gate.max_drop`; what is None was not chosen."""
    found = dict[str, str]()
    for name, value in given.items():
        if is_dataclass(value) and not isinstance(value, type):
            inner = flat({each.name: getattr(value, each.name) for each in fields(value)})
            found |= {f"{name}.{each}" if name != "options" else each: text for each, text in inner.items()}
        elif isinstance(value, str | int | float | Path):
            found[name] = str(value)
        elif isinstance(value, tuple | list) and value and all(isinstance(each, str) for each in value):
            found[name] = ", ".join(value)
    return found


def _params(contents: BundleContents) -> Iterator[tuple[str, str]]:
    manifest = contents.manifest
    yield "edgeq", __version__
    yield "kind", manifest.kind
    if manifest.task is not None:
        yield "task", manifest.task
    if contents.scales is not None:
        yield "method_chosen", contents.scales.method
        yield "images_calibrated_on", str(contents.scales.images + contents.scales.held_back)
    if contents.gate is not None:
        yield "gate", "INT8 kept" if contents.gate.passed else "floating point kept"
    if contents.memory is not None:
        yield "device", contents.memory.device.name
    if manifest.allowed:
        yield "guards_allowed", ", ".join(manifest.allowed)


def _metrics(contents: BundleContents) -> Iterator[tuple[str, float]]:
    headline = headline_of(contents)
    if headline is not None:
        yield from _figures(headline.name, headline)
    if isinstance(contents.gate, Gate):
        for other in contents.gate.others:
            yield from _figures(f"{other.made_for}/{other.headline.name}", other.headline)
    if isinstance(contents.quality, Quality):
        for each in contents.quality.latency:
            yield f"latency/fp32_ms_batch_{each.batch}", each.reference_ms
            yield f"latency/quantized_ms_batch_{each.batch}", each.candidate_ms
            yield f"latency/speedup_batch_{each.batch}", each.speedup
        yield "bytes/fp32", float(contents.quality.reference_bytes)
        yield "bytes/quantized", float(contents.quality.candidate_bytes)
    yield "bytes/bundle", float(contents.total_bytes)
    yield from _parameters(contents)
    if contents.memory is not None:
        yield "memory/needed_bytes", float(contents.memory.needed_bytes)
        yield "memory/spare_bytes", float(contents.memory.spare_bytes)
    if contents.search is not None:
        yield from _searched(contents.search)


def _figures(name: str, headline: Headline) -> Iterator[tuple[str, float]]:
    """A headline; what nobody knows is left out."""
    known = {
        "reference": headline.reference,
        "quantized": headline.candidate,
        "drop": headline.drop,
        "drop_se": headline.standard_error,
        headline.alike: headline.agreement,
        "examples": float(headline.examples),
    }
    yield from ((_key(f"{name}/{what}"), value) for what, value in known.items() if value is not None)


def _key(name: str) -> str:
    """A name that every tracker takes as it is."""
    return _OTHER.sub("_", name)


def _parameters(contents: BundleContents) -> Iterator[tuple[str, float]]:
    """How many are stored in which precision."""
    whole = contents.plans.get("plan.yaml")
    plans = [whole] if whole is not None else [*contents.plans.values()]
    counted = dict[str, float]()
    for decision in (each for plan in plans for each in plan.decisions if each.parameters):
        name = f"parameters/{decision.precision.value}"
        counted[name] = counted.get(name, 0.0) + decision.parameters
    yield from counted.items()


def _searched(search: Search) -> Iterator[tuple[str, float]]:
    if search.chosen is None:
        return
    step = search.steps[search.chosen]
    yield "search/layers_kept", float(len(step.kept))
    yield "search/float_share", step.share
    if search.check is not None:
        yield from _figures("search/unseen", search.check.headline())


def _layers(table: Sensitivity | None) -> dict[str, tuple[float, ...]]:
    """Layer by layer in the graph's order: the step is the layer's place."""
    if table is None:
        return {}
    return {
        "layer/logit_error": tuple(line.alone.logit_error for line in table.layers),
        "layer/same_class": tuple(line.alone.agreement for line in table.layers),
        "layer/gain_if_left_out": tuple(line.gain for line in table.layers),
    }


def _steps(search: Search | None) -> dict[str, tuple[float, ...]]:
    """The frontier: each step keeps more layers than the one before."""
    if search is None:
        return {}
    return {
        "step/drop": tuple(step.headline.drop for step in search.steps),
        "step/layers_kept": tuple(float(len(step.kept)) for step in search.steps),
        "step/float_share": tuple(step.share for step in search.steps),
    }


def _ranking(table: Sensitivity) -> str:
    """The worst layers, each with its place among all: that is the step of the series."""
    places = {line.layer: place for place, line in enumerate(table.layers)}
    lines = ["| layer | step | logit error alone | same class | gain if left out |", "|---|---|---|---|---|"]
    for line in table.ranking()[:_WORST]:
        name = line.layer.replace("|", "\\|")
        alone = line.alone
        error = f"{alone.logit_error:.5f} ± {alone.logit_error_se:.5f}"
        cells = (f"`{name}`", str(places[line.layer]), error, f"{alone.agreement:.2f} %", f"{100 * line.gain:+.1f} %")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
