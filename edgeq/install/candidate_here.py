"""What runs a bundle's graphs on this device."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from edgeq.bundle.manifest import Manifest
from edgeq.bundle.retrieval_settings import RetrievalSettings
from edgeq.engine.registry import DEFAULT, require
from edgeq.engine.registry import backend as named
from edgeq.engine_store.candidate import Candidate, open_candidate
from edgeq.engine_store.store import default_store
from edgeq.install.proof import backend_here
from edgeq.install.store import ENGINES, MARKER
from edgeq.runtime.canary.canary_set import canary_graph
from edgeq.runtime.retrieval.two_tower import TwoTowerModel, open_two_tower

__all__ = ["AUTO", "open_two_tower_here", "require_backend", "vision_candidate"]

AUTO: Final = "auto"
"""The backend that suits this machine and the bundle."""


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
        backend: its name; `auto` takes TensorRT where it is installed and there is a GPU for it, else the backend that
            the bundle was made for.
        threads: of one operator; None takes every processor there is.

    Raises:
        ArtifactError: the bundle does not say what is run.
        EngineError: there is no TensorRT, or no engine of this bundle was built for this device.
    """
    graph = canary_graph(bundle)
    chosen = backend_here(graph.name) if backend == AUTO else named(backend)
    return open_candidate(bundle, manifest, graph, chosen, _engines(place, bundle), threads=threads)


def open_two_tower_here(
    place: Path, bundle: Path, manifest: Manifest, backend: str, *, threads: int | None = None
) -> tuple[TwoTowerModel, str]:
    """Both encoders of a two-tower model, and what runs them, with its version. Engines must have been built.

    Args:
        place, bundle, manifest, backend, threads: as for `vision_candidate`; `auto` takes ONNX Runtime elsewhere.

    Raises:
        ArtifactError: a part of the bundle is missing or damaged.
        EngineError: the backend refuses a graph, or no engine of an encoder was built for this device.
        ModelError: the tokenizer or the preprocessing cannot be used.
    """
    chosen = backend_here() if backend == AUTO else named(backend)
    if chosen is DEFAULT:
        return open_two_tower(bundle, threads), DEFAULT.version()
    require(chosen)
    store = _engines(place, bundle)
    candidates = {
        encoder: open_candidate(bundle, manifest, bundle / name, chosen, store, encoder=encoder, threads=threads)
        for encoder, name in RetrievalSettings.of(bundle).graphs.items()
    }
    engines = {encoder: candidate.open() for encoder, candidate in candidates.items()}
    versions = dict.fromkeys(candidate.backend for candidate in candidates.values())
    return open_two_tower(bundle, threads, engines=engines), ", ".join(versions)


def _engines(place: Path, bundle: Path) -> Path:
    """The directory of the engines of a bundle: of the store that it is installed in, or the machine's."""
    root = bundle.resolve().parent.parent if place == bundle else place
    return root / ENGINES if (root / MARKER).is_file() else default_store()
