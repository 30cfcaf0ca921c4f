"""`build`: the engine of each of a bundle's encoders for this machine, found in the store or built."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final

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
from edgeq.engine_store.quicker import EngineChoice, EnginePrecision, choose_engine, choose_half, chosen_half
from edgeq.engine_store.second_try import SecondTry, SecondTryError, find_built, make_engine, read_second_try, try_again
from edgeq.engine_store.store import EngineStore, StoredEngine
from edgeq.engine_store.verify_engine import canary_sets
from edgeq.errors import ArtifactError, EdgeqError, EngineError, QuantizeError
from edgeq.plan.budget import WORKSPACE_BYTES
from edgeq.runtime.canary.canary_set import CanarySet, open_canaries
from edgeq.tensorrt.inputs import ENGINE_INPUTS, FP16_INPUTS
from edgeq.tensorrt.loading import QuantizationMode, newer_than_known, version_of
from edgeq.tensorrt.outcome import UnbuiltError
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
        second_try: why precisions are preferred in this engine, and what differs; None where it is as planned.
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
    second_try: SecondTry | None = None


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
        opener: opens engines that were built, where canaries decide; None takes the backend's own.
        progress: called as (stage, done, total); `wait` while another process builds the same. Of several encoders, the
            encoder stands before the stage: `text: wait`.
        say: told what a person should know, in a sentence.

    Returns:
        The engine of each encoder, by name; of the only one under an empty name.

    Raises:
        ArtifactError: the bundle is damaged, or does not say what an engine is built from.
        EngineError: there is no such TensorRT, it refuses the graph, or builds nothing.
        QuantizeError: it built something else than was planned; the error says where that is.
        GateError: the build may take more memory than is free, of two engines neither sees, or that of a second try
            does not.
        OutputError: the store cannot be written.
    """
    manifest = read_manifest(bundle)
    if not backend.built:
        graphs = _GRAPHS[manifest.kind](bundle)
        return {encoder: _as_it_is(bundle, manifest, backend, encoder, names) for encoder, names in graphs.items()}
    maker, say = maker or TensorRtMaker(), say or (lambda _sentence: None)
    _check_release(maker.release, tensorrt)
    if warning := newer_than_known(version_of(maker.release)):
        say(warning)
    machine, report = machine or read_machine(), progress or (lambda _stage, _done, _total: None)
    shared: dict[str, Any] = {
        "quantization": quantization,
        "tensorrt": maker.release,
        "batch": batch,
        "workspace_bytes": workspace_bytes,
    }
    planned = [
        _planned(bundle, manifest, machine, encoder=encoder, images=images, **shared)
        for encoder in encoders_of(manifest)
    ]
    if has_both(manifest):
        planned.append(_planned(bundle, manifest, machine, described=FP16_INPUTS, **shared))
        open_canaries(bundle, manifest)  # they decide between the two engines, and are missed before there is one
    if len(planned) > 1:
        _check_memory_of_all(planned, EngineStore(store), free_bytes)
    timing = timing_cache_file(store / _TIMING, maker.release, " ".join(map(str, machine.model_dump().values())))
    building = _Building(
        bundle, manifest, maker, EngineStore(store), free_bytes, backend, opener or backend.open, timing, report, say
    )
    if has_both(manifest):
        return {"": building.of_both(*planned)}
    made = [building.made(each) for each in planned]
    return {each.settings.encoder: engine for each, engine in zip(planned, made, strict=True)}


@dataclass(frozen=True)
class _Planned:
    """One engine that is wanted.

    Attributes:
        settings: for its builder.
        parts: of its key.
        images: to calibrate on.
    """

    settings: BuildSettings
    parts: KeyParts
    images: Path | None


def _planned(
    bundle: Path,
    manifest: Manifest,
    machine: Machine,
    *,
    images: Path | None = None,
    described: str = ENGINE_INPUTS,
    **choices: Any,
) -> _Planned:
    settings = plan_build(bundle, images=images, described=described, **choices)
    parts = build_key(bundle, manifest, settings, machine, images=images, described=described)
    return _Planned(settings, parts, images)


def _check_memory_of_all(planned: Sequence[_Planned], store: EngineStore, free_bytes: int | None) -> None:
    """Raise GateError before the first build where a later one would be refused."""
    for each in planned:
        if engine_key(each.parts) is not None and find_built(store, each.parts) is None:
            check_memory(each.settings, free_bytes)


@dataclass(frozen=True)
class _Building:
    """What all builds of one bundle have in common."""

    bundle: Path
    manifest: Manifest
    maker: Maker
    store: EngineStore
    free_bytes: int | None
    backend: EngineBackend
    opener: OpenEngine
    timing: Path
    report: Progress
    say: Callable[[str], None]

    def made(self, wanted: _Planned) -> BuiltEngine:
        """One engine, found or made."""
        stored = find_built(self.store, wanted.parts) or self._make(wanted)
        second = read_second_try(stored.engine)
        return BuiltEngine(
            backend=self.backend.name,
            engine=stored.engine,
            size=stored.record.size,
            sha256=stored.record.sha256,
            reused=stored.reused,
            because=f"{stored.because}; {second.because}" if second else stored.because,
            key=stored.record.key,
            parts=stored.record.parts,
            settings=stored.record.settings,
            second_try=second,
        )

    def of_both(self, int8: _Planned, half: _Planned) -> BuiltEngine:
        """The quicker of an INT8 and an FP16 engine; the FP16 engine where no INT8 engine can be made."""
        before = None if find_built(self.store, int8.parts) else find_built(self.store, half.parts)
        choice = chosen_half(before, engine_key(int8.parts))
        if choice is not None:
            return self._taken(self.made(half), choice)
        try:
            first = self.made(int8)
        except (UnbuiltError, QuantizeError, SecondTryError) as error:
            self.say(f"{error.what}: the FP16 engine takes its place, if it sees. {error.next_step}")
            return self._instead(half, engine_key(int8.parts) or "", error)
        second = self.made(half)
        self.report("compare", 0, 0)
        return self._quicker(first, second)

    def _instead(self, half: _Planned, int8: str, error: EdgeqError) -> BuiltEngine:
        made = self.made(half)
        stored = self.store.find(made.key or "")
        if stored is None:
            raise error
        return self._taken(made, choose_half(self.bundle, self.manifest, stored, int8, error.what, self.opener))

    def _quicker(self, int8: BuiltEngine, half: BuiltEngine) -> BuiltEngine:
        built: dict[EnginePrecision, BuiltEngine] = {"int8": int8, "fp16": half}
        engines = {name: found for name, each in built.items() if (found := self.store.find(each.key or ""))}
        choice = choose_engine(self.bundle, self.manifest, engines, self.opener)
        return self._taken(built[choice.chosen], choice)

    @staticmethod
    def _taken(engine: BuiltEngine, choice: EngineChoice) -> BuiltEngine:
        return engine.model_copy(update={"choice": choice, "because": f"{engine.because}; {choice.because}"})

    def _make(self, wanted: _Planned) -> StoredEngine:
        encoder = wanted.settings.encoder
        heard = partial(_named, self.report, encoder) if encoder else self.report
        evidence = self.store.evidence(engine_key(wanted.parts) or "")
        job = Job(self.bundle, wanted.settings, wanted.images, self.timing, heard, self.say, evidence)

        def make(path: Path) -> None:
            check_memory(wanted.settings, self.free_bytes)
            self.store.require_room(_least_bytes(self.bundle, wanted.settings))
            heard("build", 0, 0)
            make_engine(job, self.maker, path)

        try:
            return self.store.build(wanted.settings, wanted.parts, make, waiting=lambda: heard("wait", 0, 0))
        except (UnbuiltError, QuantizeError) as error:
            stored = try_again(
                job, wanted.parts, error, self.maker, self.store, partial(self._canaries, encoder), self.opener
            )
            if stored is None:
                raise
            return stored

    def _canaries(self, encoder: str) -> CanarySet:
        return canary_sets(self.bundle, self.manifest)[encoder]


def _least_bytes(bundle: Path, settings: BuildSettings) -> int:
    """What an engine takes at least: its weights, in INT8 where they are FP32 in the graph, and some of them twice."""
    graph = bundle / settings.graph
    files = [path for path in (graph, graph.with_name(f"{graph.name}.data")) if path.is_file()]
    return sum(path.stat().st_size for path in files) // (4 if settings.quantization == "implicit" else 2)


def _named(report: Progress, encoder: str, stage: str, done: int, total: int) -> None:
    report(f"{encoder}: {stage}", done, total)


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
