"""What runs a bundle's vision graph on this device."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from edgeq.bundle.manifest import Manifest
from edgeq.bundle.vlm_settings import VlmSettings
from edgeq.engine_store.candidate import Candidate, onnx_candidate, tensorrt_candidate
from edgeq.engine_store.run import Backend
from edgeq.engine_store.store import default_store
from edgeq.install.proof import backend_here
from edgeq.install.store import ENGINES
from edgeq.runtime.canary.canaries import CANARY_LIST, ClassCanaries

__all__ = ["vision_candidate"]


def vision_candidate(
    place: Path, bundle: Path, manifest: Manifest, backend: Backend | Literal["auto"], *, threads: int | None = None
) -> Candidate:
    """What runs a bundle's vision graph. TensorRT's engine must have been built: that takes minutes and much memory.

    Args:
        place: that the bundle was found at: itself, or a store of `edgeq install`, which has engines of its own.
        bundle: its directory, which was checked.
        manifest: its own.
        backend: `auto` takes TensorRT where it is installed and there is a GPU for it, else ONNX Runtime.
        threads: of one operator in ONNX Runtime; None takes every processor there is.

    Raises:
        ArtifactError: the bundle does not say what is run.
        EngineError: there is no TensorRT, or no engine of this bundle was built for this device.
    """
    chosen = backend_here() if backend == "auto" else backend
    if chosen == "tensorrt":
        return tensorrt_candidate(bundle, manifest, default_store() if place == bundle else place / ENGINES)
    if manifest.kind == "vision-language":
        graph = VlmSettings.of(bundle).vision
    else:
        graph = ClassCanaries.load(bundle / CANARY_LIST).int8
    return onnx_candidate(bundle / graph, threads=threads)
