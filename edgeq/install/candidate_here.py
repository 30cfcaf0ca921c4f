"""What runs a bundle's vision graph on this device."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from edgeq.bundle.manifest import Manifest
from edgeq.engine.registry import backend as named
from edgeq.engine.registry import require
from edgeq.engine_store.candidate import Candidate, open_candidate
from edgeq.engine_store.store import default_store
from edgeq.install.proof import backend_here
from edgeq.install.store import ENGINES
from edgeq.runtime.canary.canary_set import canary_graph

__all__ = ["AUTO", "require_backend", "vision_candidate"]

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
    store = default_store() if place == bundle else place / ENGINES
    return open_candidate(bundle, manifest, graph, chosen, store, threads=threads)
