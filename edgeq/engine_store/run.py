"""`build`: the engine of each of a bundle's encoders for this machine, found in the store or built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Final

from pydantic import BaseModel, ConfigDict

from edgeq.bundle.manifest import Kind, Manifest, read_manifest
from edgeq.bundle.retrieval_settings import RetrievalSettings
from edgeq.bundle.vlm_settings import VlmSettings
from edgeq.engine.base import EngineBackend, OpenEngine
from edgeq.engine.registry import BUILT, DEFAULT
from edgeq.engine_store.key import KeyParts, engine_key
from edgeq.engine_store.machine import Machine, read_machine
from edgeq.engine_store.maker import Job, Maker, TensorRtMaker
from edgeq.engine_store.planned import build_key, encoders_of, has_both, plan_build
from edgeq.engine_store.quicker import EngineChoice, EnginePrecision, choose_engine
from edgeq.engine_store.store import EngineStore
from edgeq.errors import ArtifactError, EngineError
from edgeq.plan.budget import WORKSPACE_BYTES
from edgeq.tensorrt.inputs import FP16_INPUTS
from edgeq.tensorrt.loading import QuantizationMode, version_of
from edgeq.tensorrt.settings import Batch, BuildSettings, check_memory
from edgeq.tensorrt.timing_cache import timing_cache_file

__all__ = ["BuiltEncoders", "BuiltEngine", "build"]

Progress = Callable[[str, int, int], None]

_FP32: Final = "model.fp32.onnx"
"""A classifier's graph where floating point was kept."""
_TIMING: Final = ".timing"

_GRAPHS: Final[dict[Kind, Callable[[Path], dict[str, tuple[str, ...]]]]] = {
    "classifier": lambda _bundle: {"": (DEFAULT.graph, _FP32)},
    "vision-language": lambda bundle: {"": (VlmSettings.of(bundle).vision,)},
    "retrieval": lambda bundle: {encoder: (name,) for encoder, name in RetrievalSettings.of(bundle).graphs.items()},
}
"""Kind of bundle -> for each encoder, the graphs that are run as they are, where the backend has none of its own."""


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
        choice: between an INT8 and an FP16 engine, where the bundle has both graphs.
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
    choice: EngineChoice | None = None


class BuiltEncoders(BaseModel):
    """The engines of a bundle with several encoders.

    Attributes:
        encoders: the engine of each, by name: `text` and `vision`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoders: Mapping[str, BuiltEngine]


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
    opener: OpenEngine | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, BuiltEngine]:
    """Check a bundle byte for byte, and find or build the engine of each of its encoders.

    All are planned, and their memory is looked at, before the first is built.

    Args:
        bundle: made by `edgeq prepare`.
        store: the directory of the engines, see `edgeq.engine_store.store`.
        backend: most take the bundle's graph as it is: nothing is built or stored.
        quantization, batch, workspace_bytes, images: as for `plan_build`.
        tensorrt: the release that must be installed; None takes the one that is.
        maker: builds; None takes the TensorRT that is installed.
        machine: that it is built for; None reads this one.
        free_bytes: what the build may take; None asks this machine.
        opener: opens engines that were built, where two are compared; None takes the backend's own.
        progress: called as (stage, done, total); `wait` while another process builds the same. Of several encoders, the
            encoder stands before the stage: `text: wait`.
        say: told what a person should know, in a sentence.

    Returns:
        The engine of each encoder, by name; of the only one under an empty name.

    Raises:
        ArtifactError: the bundle is damaged, or does not say what an engine is built from.
        EngineError: there is no such TensorRT, it refuses the graph, or built something else than was planned.
        GateError: the build may take more memory than is free, or of two engines neither sees.
        OutputError: the store cannot be written.
    """
    manifest = read_manifest(bundle)
    if not backend.built:
        graphs = _GRAPHS[manifest.kind](bundle)
        return {encoder: _as_it_is(bundle, manifest, backend, encoder, names) for encoder, names in graphs.items()}
    maker = maker or TensorRtMaker()
    _check_release(maker.release, tensorrt)
    machine, report = machine or read_machine(), progress or (lambda _stage, _done, _total: None)
    planned = {
        encoder: plan_build(
            bundle,
            encoder=encoder,
            quantization=quantization,
            tensorrt=maker.release,
            batch=batch,
            workspace_bytes=workspace_bytes,
            images=images,
        )
        for encoder in encoders_of(manifest)
    }
    parts = {
        encoder: build_key(bundle, manifest, settings, machine, images=images) for encoder, settings in planned.items()
    }
    if len(planned) > 1:
        _check_memory_of_all(planned, parts, EngineStore(store), free_bytes)
    timing = timing_cache_file(store / _TIMING, maker.release, " ".join(map(str, machine.model_dump().values())))
    made = {}
    for encoder, settings in planned.items():
        heard = partial(_named, report, encoder) if encoder else report
        job = Job(bundle, settings, images, timing, heard, say or (lambda _sentence: None))
        made[encoder] = _built(job, parts[encoder], maker, EngineStore(store), free_bytes, backend)
    if has_both(manifest) and "" in made:
        half = plan_build(
            bundle,
            quantization=quantization,
            tensorrt=maker.release,
            batch=batch,
            workspace_bytes=workspace_bytes,
            described=FP16_INPUTS,
        )
        job = Job(bundle, half, None, timing, report, say or (lambda _sentence: None))
        key = build_key(bundle, manifest, half, machine, described=FP16_INPUTS)
        both = made[""], _built(job, key, maker, EngineStore(store), free_bytes, backend)
        report("compare", 0, 0)
        made[""] = _quicker(bundle, manifest, *both, EngineStore(store), opener or backend.open)
    return made


def _quicker(
    bundle: Path, manifest: Manifest, int8: BuiltEngine, half: BuiltEngine, store: EngineStore, opener: OpenEngine
) -> BuiltEngine:
    """The quicker of two engines that see."""
    built: dict[EnginePrecision, BuiltEngine] = {"int8": int8, "fp16": half}
    engines = {name: found for name, each in built.items() if (found := store.find(each.key or ""))}
    choice = choose_engine(bundle, manifest, engines, opener)
    taken = built[choice.chosen]
    return taken.model_copy(update={"choice": choice, "because": f"{taken.because}; {choice.because}"})


def _check_memory_of_all(
    planned: Mapping[str, BuildSettings], parts: Mapping[str, KeyParts], store: EngineStore, free_bytes: int | None
) -> None:
    """Raise GateError before the first build where a later one would be refused."""
    for encoder, settings in planned.items():
        key = engine_key(parts[encoder])
        if key is not None and store.find(key) is None:
            check_memory(settings, free_bytes)


def _named(report: Progress, encoder: str, stage: str, done: int, total: int) -> None:
    report(f"{encoder}: {stage}", done, total)


def _built(
    job: Job, parts: KeyParts, maker: Maker, store: EngineStore, free_bytes: int | None, backend: EngineBackend
) -> BuiltEngine:
    """One engine, found or made."""
    settings, report = job.settings, job.progress

    def make(path: Path) -> None:
        check_memory(settings, free_bytes)
        report("build", 0, 0)
        path.write_bytes(maker.make(job))

    kept = store.build(settings, parts, make, waiting=lambda: report("wait", 0, 0))
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


def _as_it_is(
    bundle: Path, manifest: Manifest, backend: EngineBackend, encoder: str, names: tuple[str, ...]
) -> BuiltEngine:
    """It optimizes while it loads; what it would store is good for one release and one processor."""
    by_name = {file.name: file for file in manifest.files}
    own = (PurePosixPath(encoder) / backend.graph).as_posix()
    listed = next((by_name[name] for name in (own, *names) if name in by_name), None)
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
