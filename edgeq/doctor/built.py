"""Whether the bundle's engine is built for this machine, and if it is not, how the nearest one differs."""

from __future__ import annotations

from pathlib import Path

from edgeq.bundle.contents import Manifest
from edgeq.doctor.bundles import Examined
from edgeq.doctor.finding import DoctorFinding
from edgeq.engine_store.candidate import half_instead
from edgeq.engine_store.key import KeyParts, engine_key, unknown_parts
from edgeq.engine_store.machine import Machine
from edgeq.engine_store.planned import build_key, encoders_of, has_both, plan_build
from edgeq.engine_store.quicker import read_choice
from edgeq.engine_store.second_try import find_built
from edgeq.engine_store.store import EngineStore, StoredEngine
from edgeq.errors import EdgeqError, shell_word

__all__ = ["engine_findings"]


def engine_findings(
    bundle: Examined, tensorrt: str | None, store: EngineStore, machine: Machine
) -> tuple[DoctorFinding, ...]:
    """Look for the engines that `edgeq build` would use; length and digest of each are compared with its record.

    Args:
        bundle: that the engine is of.
        tensorrt: the release that works here; None where there is none.
        store: of engines.
        machine: this one.
    """
    if bundle.directory is None or bundle.manifest is None:
        return (DoctorFinding(name="engine", status="unknown", seen="no bundle to look for an engine of"),)
    if tensorrt is None:
        seen = "without TensorRT no engine is built"
        means = "ONNX Runtime runs the bundle's graph as it is"
        return (DoctorFinding(name="engine", status="unknown", seen=seen, means=means),)
    return tuple(
        _finding(bundle.directory, bundle.manifest, encoder, tensorrt, store, machine)
        for encoder in encoders_of(bundle.manifest)
    )


def _finding(
    directory: Path, manifest: Manifest, encoder: str, tensorrt: str, store: EngineStore, machine: Machine
) -> DoctorFinding:
    """Of one encoder."""
    name = f"engine: {encoder}" if encoder else "engine"
    try:
        settings = plan_build(directory, encoder=encoder, tensorrt=tensorrt)
        parts = build_key(directory, manifest, settings, machine)
        key = engine_key(parts)
        if key is None:
            seen = f"not known here: {', '.join(unknown_parts(parts))}"
            return DoctorFinding(name=name, status="unknown", seen=seen)
        found = find_built(store, parts)
        if found is None:
            half = half_instead(directory, manifest, parts, store.root, machine) if has_both(manifest) else None
            return _replaced(name, half, store) if half else _not_built(name, directory, _why(store, key, parts))
    except EdgeqError as error:
        return DoctorFinding(name=name, status="warning", seen=error.what, next_step=error.next_step)
    size = f"{found.record.size / 1e6:.1f} MB"
    return DoctorFinding(
        name=name, status="ok", seen=f"{found.record.key[:12]} in {store.root}, {size}, as it was built"
    )


def _replaced(name: str, half: StoredEngine, store: EngineStore) -> DoctorFinding:
    """No INT8 engine could be made, and the FP16 engine runs in its place."""
    choice = read_choice(half.engine)
    because = f": {choice.because}" if choice is not None else ""
    seen = (
        f"FP16 in the place of INT8, {half.record.key[:12]} in {store.root}, {half.record.size / 1e6:.1f} MB{because}"
    )
    return DoctorFinding(name=name, status="ok", seen=seen)


def _why(store: EngineStore, key: str, parts: KeyParts) -> str:
    """Why there is no engine under a key."""
    if (store.root / key).exists():
        return f"what is in {store.root / key} is not what its record says"
    return store.explain(parts) or f"none of this graph is in {store.root}"


def _not_built(name: str, directory: Path, why: str) -> DoctorFinding:
    means = "it is built once, by `edgeq install` or by hand, which takes minutes"
    step = f"edgeq build {shell_word(directory)} --backend tensorrt"
    return DoctorFinding(name=name, status="warning", seen=f"not built: {why}", means=means, next_step=step)
