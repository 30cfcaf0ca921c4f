"""Engines that can be verified: what each is loaded from, and how it is opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeq.bundle.manifest import Manifest
from edgeq.engine import Engine
from edgeq.engine.base import EngineBackend, Placement
from edgeq.engine.registry import BUILT, DEFAULT, require
from edgeq.engine.tensorrt import TensorRtEngine
from edgeq.engine_store.key import KeyParts, engine_key
from edgeq.engine_store.machine import Machine, read_machine
from edgeq.engine_store.planned import build_key, has_both, plan_build
from edgeq.engine_store.quicker import chosen_half, read_choice
from edgeq.engine_store.second_try import find_built
from edgeq.engine_store.store import EngineStore, StoredEngine
from edgeq.errors import EngineError, shell_word
from edgeq.plan.budget import WORKSPACE_BYTES
from edgeq.plan.memory import MemoryPlan
from edgeq.runtime.scheduler.budget import MEMORY
from edgeq.tensorrt.inputs import FP16_INPUTS
from edgeq.tensorrt.loading import QuantizationMode, load_tensorrt, version_of
from edgeq.tensorrt.memory import open_memory

__all__ = [
    "Candidate",
    "find_engine",
    "graph_candidate",
    "graph_for",
    "half_instead",
    "open_candidate",
    "placement_for",
    "tensorrt_candidate",
]

_PLANNED: Final = ("vision weights", "connector weights", "image pixels", "vision activations")
"""What of a memory plan's last moment is the vision graph's, beside the workspace."""


@dataclass(frozen=True)
class Candidate:
    """An engine that is not open yet.

    Attributes:
        backend: that runs it, with its version.
        file: that it is loaded from.
        open: loads it.
        because: why it is this one, in a few words; empty where nobody asked.
    """

    backend: str
    file: Path
    open: Callable[[], Engine]
    because: str = ""


def open_candidate(
    bundle: Path,
    manifest: Manifest,
    graph: Path,
    backend: EngineBackend,
    store: Path,
    *,
    encoder: str = "",
    file: Path | None = None,
    quantization: QuantizationMode | None = None,
    threads: int | None = None,
) -> Candidate:
    """What a backend runs of a bundle: an engine that was built for it, or a graph as it is.

    Args:
        bundle: its directory.
        manifest: its own.
        graph: that the bundle runs where the backend has none of its own in it.
        backend: that runs it.
        store: of the engines of this device.
        encoder: that is run, in a bundle with several.
        file: takes the place of both.
        quantization: as for `tensorrt_candidate`.
        threads: of one operator.

    Raises:
        ArtifactError: the bundle does not say what an engine is built from.
        EngineError: the backend is not installed, or the store has no such engine.
    """
    if backend.built:
        return tensorrt_candidate(bundle, manifest, store, encoder=encoder, file=file, quantization=quantization)
    placement = placement_for(bundle, store, backend)
    taken = file or graph_for(bundle / encoder, graph, backend)
    return graph_candidate(taken, backend, threads=threads, placement=placement)


def placement_for(bundle: Path, store: Path, backend: EngineBackend) -> Placement | None:
    """Where a backend keeps what it compiles of a bundle, and how much it may take; None for one that asks for neither.

    Args:
        bundle: whose memory plan is looked at, if it has one.
        store: of the engines of this device.
        backend: that runs it.

    Raises:
        ArtifactError: the memory plan is none.
    """
    if backend.place is None:
        return None
    limit = None
    if (bundle / MEMORY).is_file():
        answering = MemoryPlan.load(bundle / MEMORY).phases[-1]
        limit = WORKSPACE_BYTES + sum(item.bytes for item in answering.items if item.name in _PLANNED)
    return Placement(store / backend.name, limit)


def graph_for(directory: Path, graph: Path, backend: EngineBackend) -> Path:
    """The graph that a backend runs of a bundle that was checked: the one made for it where it is there, else `graph`.

    Args:
        directory: of the bundle's graphs.
        graph: that the bundle runs otherwise.
        backend: that runs it.
    """
    own = directory / backend.graph
    return own if own.exists() else graph


def graph_candidate(
    graph: Path,
    backend: EngineBackend = DEFAULT,
    *,
    threads: int | None = None,
    placement: Placement | None = None,
) -> Candidate:
    """An ONNX file for a backend that runs it as it is; raises EngineError where that is not installed.

    Args:
        graph: the file.
        backend: that runs it.
        threads: of one operator; None for the backend's default.
        placement: from `placement_for`.
    """
    require(backend)
    return Candidate(backend.version(), graph, lambda: backend.opener(placement)(graph, threads=threads))


def tensorrt_candidate(
    bundle: Path,
    manifest: Manifest,
    store: Path,
    *,
    encoder: str = "",
    file: Path | None = None,
    quantization: QuantizationMode | None = None,
) -> Candidate:
    """An engine for the TensorRT that is installed.

    Args:
        bundle: that it was built from.
        manifest: its own.
        store: of the engines of this device.
        encoder: whose engine it is, in a bundle with several.
        file: takes the place of the store. An engine can hold code: it must come from this device.
        quantization: that it was built on; None takes what `edgeq build` takes by itself.

    Raises:
        ArtifactError: the bundle does not say what an engine is built from.
        EngineError: TensorRT is not installed, or the store has no such engine.
    """
    trt = load_tensorrt()
    release = ".".join(map(str, version_of(trt)))
    engine = file or find_engine(bundle, manifest, store, release, encoder=encoder, quantization=quantization)
    return Candidate(f"tensorrt {trt.__version__}", engine, lambda: TensorRtEngine(engine, open_memory(), trt=trt))


def find_engine(
    bundle: Path,
    manifest: Manifest,
    store: Path,
    release: str,
    *,
    encoder: str = "",
    quantization: QuantizationMode | None = None,
    machine: Machine | None = None,
) -> Path:
    """The file of the engine that `edgeq build` made of a bundle for this device; nothing is built.

    Args:
        bundle, manifest, store, encoder, quantization: as for `tensorrt_candidate`.
        release: of TensorRT, such as `10.3.0`.
        machine: that it was built for; None reads this one.

    Raises:
        ArtifactError: the bundle does not say what an engine is built from.
        EngineError: the store has no such engine.
    """
    settings = plan_build(bundle, encoder=encoder, quantization=quantization, tensorrt=release)
    machine = machine or read_machine()
    parts = build_key(bundle, manifest, settings, machine)
    found = find_built(EngineStore(store), parts)
    if has_both(manifest):
        found = _chosen(found, EngineStore(store)) if found else half_instead(bundle, manifest, parts, store, machine)
    if found is None:
        nearest = EngineStore(store).explain(parts)
        raise EngineError(
            f"the store {store} has no engine of {bundle} for this device",
            expected=f"an engine of {settings.graph} with {settings.quantization} quantization",
            causes=(
                *((nearest,) if nearest else ()),
                "it was not built yet, or with other options: then give its file with --engine",
            ),
            next_step=f"edgeq build {shell_word(bundle)} --backend {BUILT.name}"
            + (f" --quantization {quantization}" if quantization else ""),
        )
    return found.engine


def half_instead(
    bundle: Path, manifest: Manifest, int8: KeyParts, store: Path, machine: Machine
) -> StoredEngine | None:
    """The FP16 engine where it was taken because no INT8 engine could be made; None where there is none such.

    Args:
        bundle, manifest, store, machine: as for `find_engine`; the bundle has both (`has_both`).
        int8: parts of the key of the INT8 engine.

    Raises:
        ArtifactError: the bundle does not say what an engine is built from.
    """
    settings = plan_build(bundle, quantization=int8.quantization, tensorrt=int8.tensorrt, described=FP16_INPUTS)
    half = build_key(bundle, manifest, settings, machine, described=FP16_INPUTS)
    found = find_built(EngineStore(store), half)
    return found if chosen_half(found, engine_key(int8)) else None


def _chosen(int8: StoredEngine, store: EngineStore) -> StoredEngine | None:
    """The engine that was found to be quicker; None where they were not compared, or it is there no more."""
    choice = read_choice(int8.engine)
    if choice is None or choice.engines["int8"].key != int8.record.key:
        return None
    return store.find(choice.engines[choice.chosen].key)
