"""What a person sees of `edgeq build`. The workshop's packages are not needed to print it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgeq.engine_store.key import KeyParts, engine_key, unknown_parts
from edgeq.engine_store.store import EngineStore
from edgeq.tensorrt.settings import BuildSettings

__all__ = ["print_plan"]

_RANGES = {
    "none": "none: the graph says it all",
    "cache": "the bundle's ranges, calibration.cache",
    "images": "on the images given, on this device",
}


def print_plan(settings: BuildSettings, parts: KeyParts, store: EngineStore) -> None:
    """All that a builder would be told, and the precision of every layer.

    Args:
        settings: of the build.
        parts: what the engine's key is made of.
        store: where the engine would be kept.
    """
    rows = [*_settings(settings), *_key(parts, store)]
    _table(f"What TensorRT would be told of {settings.graph}", ("", ""), rows)
    layers = [
        (layer.name, layer.op, layer.precision, " ".join(kind or "-" for kind in layer.outputs))
        for layer in settings.layers
    ]
    _table("Layers", ("layer", "operator", "computes in", "writes"), layers)


def _settings(settings: BuildSettings) -> Iterator[tuple[str, str]]:
    yield "graph", f"{settings.graph}, SHA-256 {settings.graph_sha256[:12]}…"
    yield "quantization", settings.quantization_reason
    yield "TensorRT", settings.tensorrt or "not known: name one with --tensorrt"
    yield "network flags", " ".join(settings.network_flags) or "none"
    yield "builder flags", " ".join(settings.builder_flags) or "none"
    yield "flags taken away", " ".join(settings.cleared_flags) or "none"
    yield "calibration", _RANGES[settings.calibration]
    for number, ranges in enumerate(settings.profiles):
        profile = f", profile {number}" if len(settings.profiles) > 1 else ""
        for each in ranges:
            yield (
                f"shapes of {each.input}{profile}",
                " .. ".join("x".join(map(str, shape)) for shape in (each.min, each.opt, each.max)),
            )
    yield "outputs", " ".join(f"{name} {kind}" for name, kind in settings.output_types.items())
    yield "workspace", f"{settings.workspace_bytes / (1 << 20):,.0f} MiB"
    yield "memory while building", f"at most {settings.peak_bytes / 1e9:,.2f} GB"
    counts = Counter(layer.precision for layer in settings.layers)
    yield "layers", ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))


def _key(parts: KeyParts, store: EngineStore) -> Iterator[tuple[str, str]]:
    key = engine_key(parts)
    yield "key", key or f"not known here: {', '.join(unknown_parts(parts)).replace('_', ' ')}"
    found = store.find(key) if key else None
    yield "engine", f"{found.engine}" if found else (store.explain(parts) if key else "") or "none in the store"


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(title=title, title_justify="left", box=SIMPLE, show_header=any(header))
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # names are not taken for markup
    Console(highlight=False).print(table)
