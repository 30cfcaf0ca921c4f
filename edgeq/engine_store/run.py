"""`build`: the engine of a bundle for this machine, found in the store or built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

from edgeq.bundle.manifest import Manifest, read_manifest
from edgeq.bundle.vlm_settings import VlmSettings
from edgeq.engine.base import EngineBackend
from edgeq.engine.registry import BUILT, DEFAULT
from edgeq.engine_store.key import KeyParts
from edgeq.engine_store.machine import Machine, read_machine
from edgeq.engine_store.maker import Job, Maker, TensorRtMaker
from edgeq.engine_store.planned import build_key, plan_build
from edgeq.engine_store.store import EngineStore
from edgeq.errors import ArtifactError, EngineError
from edgeq.plan.budget import WORKSPACE_BYTES
from edgeq.tensorrt.loading import QuantizationMode, version_of
from edgeq.tensorrt.settings import Batch, BuildSettings, check_memory
from edgeq.tensorrt.timing_cache import timing_cache_file

__all__ = ["BuiltEngine", "build"]

Progress = Callable[[str, int, int], None]

_FP32: Final = "model.fp32.onnx"
"""A classifier's graph where floating point was kept."""
_TIMING: Final = ".timing"


class BuiltEngine(BaseModel):
    """An engine that is ready to be loaded.

    Attributes:
        backend: that runs it.
        engine: the file to load: in the store, or the ONNX graph in the bundle for a backend that builds none.
        size: of the file, in bytes.
        sha256: of the file, in hexadecimal.
        reused: nothing had to be built.
        because: why it was built, or why not, in a sentence.
        key: in the store; None where none was built, as the two that follow.
        parts: what the key is made of.
        settings: what the builder was told.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: str
    engine: Path
    size: int
    sha256: str
    reused: bool
    because: str
    key: str | None = None
    parts: KeyParts | None = None
    settings: BuildSettings | None = None


def build(
    bundle: Path,
    store: Path,
    *,
    backend: EngineBackend = BUILT,
    quantization: QuantizationMode | None = None,
    tensorrt: str | None = None,
    batch: Batch | None = None,
    workspace_bytes: int = WORKSPACE_BYTES,
    images: Path | None = None,
    maker: Maker | None = None,
    machine: Machine | None = None,
    free_bytes: int | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> BuiltEngine:
    """Check a bundle byte for byte, and find or build its engine.

    Args:
        bundle: made by `edgeq prepare`.
        store: the directory of the engines, see `edgeq.engine_store.store`.
        backend: most take the bundle's graph as it is: nothing is built or stored.
        quantization, batch, workspace_bytes, images: as for `plan_build`.
        tensorrt: the release that must be installed; None takes the one that is.
        maker: builds; None takes the TensorRT that is installed.
        machine: that it is built for; None reads this one.
        free_bytes: what the build may take; None asks this machine.
        progress: called as (stage, done, total); `wait` while another process builds the same.
        say: told what a person should know, in a sentence.

    Raises:
        ArtifactError: the bundle is damaged, or does not say what an engine is built from.
        EngineError: there is no such TensorRT, it refuses the graph, or built something else than was planned.
        GateError: the build may take more memory than is free.
        OutputError: the store cannot be written.
    """
    manifest = read_manifest(bundle)
    if not backend.built:
        return _as_it_is(bundle, manifest, backend)
    maker = maker or TensorRtMaker()
    _check_release(maker.release, tensorrt)
    machine, report = machine or read_machine(), progress or (lambda _stage, _done, _total: None)
    settings = plan_build(
        bundle,
        quantization=quantization,
        tensorrt=maker.release,
        batch=batch,
        workspace_bytes=workspace_bytes,
        images=images,
    )
    parts = build_key(bundle, manifest, settings, machine, images=images)
    timing = timing_cache_file(store / _TIMING, maker.release, " ".join(map(str, machine.model_dump().values())))
    job = Job(bundle, settings, images, timing, report, say or (lambda _sentence: None))

    def make(path: Path) -> None:
        check_memory(settings, free_bytes)
        report("build", 0, 0)
        path.write_bytes(maker.make(job))

    kept = EngineStore(store).build(settings, parts, make, waiting=lambda: report("wait", 0, 0))
    return BuiltEngine(
        backend=backend.name,
        engine=kept.engine,
        size=kept.record.size,
        sha256=kept.record.sha256,
        reused=kept.reused,
        because=kept.because,
        key=kept.record.key,
        parts=parts,
        settings=settings,
    )


def _as_it_is(bundle: Path, manifest: Manifest, backend: EngineBackend) -> BuiltEngine:
    """It optimizes while it loads; what it would store is good for one release and one processor."""
    vision = manifest.kind == "vision-language"
    names = (VlmSettings.of(bundle).vision,) if vision else (backend.graph, DEFAULT.graph, _FP32)
    by_name = {file.name: file for file in manifest.files}
    listed = next((by_name[name] for name in names if name in by_name), None)
    if listed is None:
        raise ArtifactError(f"the bundle {bundle} has no graph for {backend.title}", expected=names[0])
    return BuiltEngine(
        backend=backend.name,
        engine=bundle / listed.name,
        size=listed.size,
        sha256=listed.sha256,
        reused=True,
        because=f"{backend.title} runs the bundle's graph as it is: there is nothing to build",
    )


def _check_release(found: str, asked: str | None) -> None:
    if asked is not None and version_of(asked) != version_of(found):
        raise EngineError(
            f"TensorRT {found} is installed, and {asked} was asked for",
            expected=f"TensorRT {asked}",
            next_step="leave --tensorrt out, or add --dry-run to see what that release would be told",
        )
