"""Whether the bundle's engine is built for this machine, and if it is not, how the nearest one differs."""

from __future__ import annotations

from edgeq.doctor.bundles import Examined
from edgeq.doctor.finding import DoctorFinding
from edgeq.engine_store.key import KeyParts, engine_key, unknown_parts
from edgeq.engine_store.machine import Machine
from edgeq.engine_store.planned import build_key, plan_build
from edgeq.engine_store.store import EngineStore
from edgeq.errors import EdgeqError

__all__ = ["engine_finding"]


def engine_finding(bundle: Examined, tensorrt: str | None, store: EngineStore, machine: Machine) -> DoctorFinding:
    """Look for the engine that `edgeq build` would use; its length and digest are compared with its record.

    Args:
        bundle: that the engine is of.
        tensorrt: the release that works here; None where there is none.
        store: of engines.
        machine: this one.
    """
    if bundle.directory is None or bundle.manifest is None:
        return DoctorFinding(name="engine", status="unknown", seen="no bundle to look for an engine of")
    if tensorrt is None:
        seen = "without TensorRT no engine is built"
        return DoctorFinding(
            name="engine", status="unknown", seen=seen, means="ONNX Runtime runs the bundle's graph as it is"
        )
    try:
        parts = build_key(bundle.directory, bundle.manifest, plan_build(bundle.directory, tensorrt=tensorrt), machine)
        key = engine_key(parts)
        if key is None:
            return DoctorFinding(
                name="engine", status="unknown", seen=f"not known here: {', '.join(unknown_parts(parts))}"
            )
        found = store.find(key)
        if found is None:
            return _not_built(bundle, _why(store, key, parts))
    except EdgeqError as error:
        return DoctorFinding(name="engine", status="warning", seen=error.what, next_step=error.next_step)
    size = f"{found.record.size / 1e6:.1f} MB"
    return DoctorFinding(name="engine", status="ok", seen=f"{key[:12]} in {store.root}, {size}, as it was built")


def _why(store: EngineStore, key: str, parts: KeyParts) -> str:
    """Why there is no engine under a key."""
    if (store.root / key).exists():
        return f"what is in {store.root / key} is not what its record says"
    return store.explain(parts) or f"none of this graph is in {store.root}"


def _not_built(bundle: Examined, why: str) -> DoctorFinding:
    means = "it is built once, by `edgeq install` or by hand, which takes minutes"
    step = f"edgeq build {bundle.directory} --backend tensorrt"
    return DoctorFinding(name="engine", status="warning", seen=f"not built: {why}", means=means, next_step=step)
