"""What runs a bundle's graphs on this device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

from edgeq.bundle.manifest import Manifest
from edgeq.bundle.retrieval_settings import RetrievalSettings
from edgeq.engine.base import EngineBackend
from edgeq.engine.registry import BUILT, DEFAULT, require
from edgeq.engine.registry import backend as named
from edgeq.engine_store.candidate import Candidate, open_candidate
from edgeq.engine_store.store import default_store
from edgeq.errors import ArtifactError, EngineError
from edgeq.install.proof import graphs_backend, no_built_engines
from edgeq.install.store import ENGINES, MARKER
from edgeq.runtime.canary.canary_set import canary_graph
from edgeq.runtime.retrieval.two_tower import TwoTowerModel, open_two_tower

__all__ = ["AUTO", "open_two_tower_here", "require_backend", "vision_candidate"]

AUTO: Final = "auto"
"""The backend that suits this machine and the bundle."""

_Found = TypeVar("_Found")


def require_backend(name: str) -> None:
    """Raise EngineError where the backend of this name is not installed; `auto` takes one that is."""
    if name != AUTO:
        require(named(name))


def vision_candidate(
    place: Path, bundle: Path, manifest: Manifest, backend: str, *, threads: int | None = None
) -> Candidate:
    """What runs a bundle's vision graph. An engine must have been built: that takes minutes and much memory.

    Args:
        place: that the bundle was found at: itself, or a store of `edgeq install`, which has engines of its own.
        bundle: its directory, which was checked.
        manifest: its own.
        backend: its name; `auto` takes the engine that was built of the bundle for this device, else the backend that
            the bundle was made for.
        threads: of one operator; None takes every processor there is.

    Returns:
        It, not open yet, and why it is this one.

    Raises:
        ArtifactError: the bundle does not say what is run.
        EngineError: the backend that was asked for is not installed, or has no engine of this bundle for this device.
    """
    graph, store = canary_graph(bundle), _engines(place, bundle)

    def found(chosen: EngineBackend) -> Candidate:
        return open_candidate(bundle, manifest, graph, chosen, store, threads=threads)

    candidate, because = _suiting(backend, graph.name, found)
    return replace(candidate, because=because)


def open_two_tower_here(
    place: Path,
    bundle: Path,
    manifest: Manifest,
    backend: str,
    *,
    threads: int | None = None,
    say: Callable[[str], None] | None = None,
) -> tuple[TwoTowerModel, str]:
    """Both encoders of a two-tower model, and what runs them, with its version. Engines must have been built.

    Args:
        place, bundle, manifest, backend, threads: as for `vision_candidate`; `auto` takes ONNX Runtime for both where
            there are not engines of both.
        say: told why it is this backend, in a few words.

    Raises:
        ArtifactError: a part of the bundle is missing or damaged.
        EngineError: the backend refuses a graph, or no engine of an encoder was built for this device.
        ModelError: the tokenizer or the preprocessing cannot be used.
    """
    store = _engines(place, bundle)

    def found(chosen: EngineBackend) -> dict[str, Candidate]:
        require(chosen)
        if chosen is DEFAULT:
            return {}
        return {
            encoder: open_candidate(bundle, manifest, bundle / name, chosen, store, encoder=encoder, threads=threads)
            for encoder, name in RetrievalSettings.of(bundle).graphs.items()
        }

    candidates, because = _suiting(backend, DEFAULT.graph, found)
    if say:
        say(because)
    if not candidates:
        return open_two_tower(bundle, threads), DEFAULT.version()
    engines = {encoder: candidate.open() for encoder, candidate in candidates.items()}
    versions = dict.fromkeys(candidate.backend for candidate in candidates.values())
    return open_two_tower(bundle, threads, engines=engines), ", ".join(versions)


def _suiting(backend: str, graph: str, found: Callable[[EngineBackend], _Found]) -> tuple[_Found, str]:
    """What a backend has of a bundle, and why it is this backend.

    Args:
        backend: its name, or `auto`.
        graph: file name of the bundle's graph.
        found: looks for what a backend has; it raises where that is nothing.
    """
    if backend != AUTO:
        return found(named(backend)), "it was asked for"
    missing = no_built_engines()
    if not missing:
        try:
            return found(BUILT), "its engine was built of this bundle for this device"
        except (ArtifactError, EngineError) as error:  # it was not built, or for another device or release
            missing = "; ".join((error.what, *error.causes[:1], error.next_step))
    return found(graphs_backend(graph)), f"no {BUILT.title} engine: {missing}"


def _engines(place: Path, bundle: Path) -> Path:
    """The directory of the engines of a bundle: of the store that it is installed in, or the machine's."""
    root = bundle.resolve().parent.parent if place == bundle else place
    return root / ENGINES if (root / MARKER).is_file() else default_store()
