"""Verify an engine on the device that it runs on, and write down what was found, to be sent back.

The engine is held against what the workshop saw, and against ONNX Runtime with the bundle's own graph here: where that
computes what the workshop saw, a difference is the engine's own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from edgeq import __version__
from edgeq.artifact import Artifact
from edgeq.bundle.manifest import MANIFEST, Kind, Manifest, read_manifest
from edgeq.engine import Engine
from edgeq.engine.onnxruntime import default_threads
from edgeq.engine.power import Power, read_power
from edgeq.engine_store.candidate import Candidate, graph_candidate
from edgeq.engine_store.machine import Machine, read_machine
from edgeq.errors import EngineError
from edgeq.files import sha256_file
from edgeq.quality.latency import Percentiles, measure_percentiles
from edgeq.runtime.canary.answers import ask_canaries
from edgeq.runtime.canary.canary_set import CanarySet, open_canaries
from edgeq.runtime.canary.check import Seen, canary_feeds, compare_canaries, require_talk, run_canaries
from edgeq.runtime.canary.report import DEFAULT_BOUNDS, CanaryBounds, CanaryReport
from edgeq.runtime.retrieval.canaries import retrieval_canary_sets

__all__ = ["SECONDS", "EncoderReports", "EngineReport", "Reference", "canary_sets", "verify_engine"]

SECONDS: Final = 10.0
"""How long an engine is timed: enough for a 99th percentile where a run takes less than a tenth of a second."""

Progress = Callable[[str, int, int], None]


class Reference(BaseModel):
    """ONNX Runtime here, with the bundle's graph: FP32 for a classifier, otherwise the one that it runs.

    Attributes:
        backend: with its version.
        graph: name of the file.
        canaries: it against the workshop.
        engine: the engine against it.
        latency: of the first canary.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: str
    graph: str
    canaries: CanaryReport
    engine: CanaryReport
    latency: Percentiles


class EngineReport(Artifact):
    """What was found of one engine.

    Attributes:
        bundle: name of its directory.
        manifest_sha256: of its manifest, and so of all that is in it.
        edgeq: version here.
        backend: that ran the engine, with its version.
        encoder: that the engine is of, in a bundle with several; empty otherwise.
        engine, engine_sha256: name and SHA-256 of the file that it was loaded from.
        machine: that it ran on.
        power: None where the machine is not a Jetson.
        threads: of one operator, for ONNX Runtime.
        canaries: the engine against the workshop.
        latency: of the first canary.
        reference: None where the engine is that graph in ONNX Runtime itself.
        conclusion: one sentence.
    """

    otherwise = "is no report on an engine"
    made_by = "edgeq verify-engine -o"

    version: Literal["edgeq.engine-report/1"] = "edgeq.engine-report/1"
    bundle: str
    manifest_sha256: str
    edgeq: str = __version__
    backend: str
    encoder: str = ""
    engine: str
    engine_sha256: str
    machine: Machine
    power: Power | None
    threads: int
    canaries: CanaryReport
    latency: Percentiles
    reference: Reference | None
    conclusion: str

    def raise_if_failed(self) -> None:
        """Raise GateError, which names the canaries that failed and by how much, unless all is well."""
        self.canaries.raise_if_failed(self.conclusion)


class EncoderReports(Artifact):
    """What was found of the engines of a bundle with several encoders.

    Attributes:
        encoders: the report on each, by name.
    """

    otherwise = "is no report on engines"
    made_by = "edgeq verify-engine -o"

    version: Literal["edgeq.encoder-reports/1"] = "edgeq.encoder-reports/1"
    encoders: dict[str, EngineReport] = Field(min_length=1)


_SETS: Final[dict[Kind, Callable[[Path, Manifest], dict[str, CanarySet]]]] = {
    "classifier": lambda bundle, manifest: {"": open_canaries(bundle, manifest)},
    "vision-language": lambda bundle, manifest: {"": open_canaries(bundle, manifest)},
    "retrieval": retrieval_canary_sets,
}
"""Kind of bundle -> the canaries of each of its encoders."""


def canary_sets(bundle: Path, manifest: Manifest | None = None) -> dict[str, CanarySet]:
    """Read the canaries of each of a bundle's encoders; of the only one under an empty name.

    Args:
        bundle: its directory.
        manifest: of a bundle that was checked just now; None checks it byte for byte.

    Raises:
        ArtifactError: it is no bundle, is damaged, or has no canaries that can be used.
        ModelError: the bundle's preprocessing or tokenizer cannot be used.
    """
    manifest = manifest or read_manifest(bundle)
    return _SETS[manifest.kind](bundle, manifest)


def verify_engine(
    bundle: Path,
    canaries: CanarySet,
    candidate: Candidate,
    *,
    encoder: str = "",
    bounds: CanaryBounds = DEFAULT_BOUNDS,
    answers: bool = False,
    seconds: float = SECONDS,
    threads: int | None = None,
    root: Path = Path("/"),
    report: Progress | None = None,
) -> EngineReport:
    """Run a bundle's canaries through an engine and through ONNX Runtime, compare, and time both.

    One engine is open at a time: threads of another would slow it down, and its memory may be needed.

    Args:
        bundle: that `canaries` were read from, which checked it.
        canaries: of `canary_sets(bundle)`.
        candidate: the engine.
        encoder: that the engine is of, in a bundle with several.
        bounds: what counts as the same.
        answers: ask a vision-language model the canaries' questions as well.
        seconds: how long each engine is timed.
        threads: of one operator in ONNX Runtime, and of the language model.
        root: where `etc`, `proc`, `sys` and `var` are.
        report: called as it goes on.

    Raises:
        InputError: answers were asked for, of a classifier.
        ModelError: the language model cannot be used.
        EngineError: an engine cannot be opened, or does not run.
    """
    say = report or (lambda _stage, _done, _total: None)
    require_talk(canaries, answers)
    threads = threads or default_threads()
    digest = _digest(candidate.file)
    say("the engine", 0, 0)
    engine = candidate.open()
    seen = run_canaries(engine, canaries)
    checked = compare_canaries(canaries, seen, bounds)
    latency = _timed(engine, canaries, seconds)
    if answers:
        say("answers", 0, 0)
        checked = ask_canaries(bundle, engine, canaries, checked, threads=threads)
    del engine
    say("the reference", 0, 0)
    itself = candidate.file.resolve() == canaries.reference_graph.resolve()
    reference = None if itself else _reference(canaries, seen, bounds, seconds, threads)
    return EngineReport(
        bundle=bundle.resolve().name,
        manifest_sha256=sha256_file(bundle / MANIFEST),
        backend=candidate.backend,
        encoder=encoder,
        engine=candidate.file.name,
        engine_sha256=digest,
        machine=read_machine(root),
        power=read_power(root),
        threads=threads,
        canaries=checked,
        latency=latency,
        reference=reference,
        conclusion=_conclusion(checked, reference),
    )


def _reference(canaries: CanarySet, engine: Seen, bounds: CanaryBounds, seconds: float, threads: int) -> Reference:
    candidate = graph_candidate(canaries.reference_graph, threads=threads)
    here = candidate.open()
    seen = run_canaries(here, canaries)
    return Reference(
        backend=candidate.backend,
        graph=canaries.reference_graph.name,
        canaries=compare_canaries(canaries, seen, bounds),
        engine=compare_canaries(canaries, engine, bounds, against=seen),
        latency=_timed(here, canaries, seconds),
    )


def _timed(engine: Engine, canaries: CanarySet, seconds: float) -> Percentiles:
    """On the first canary, all pictures of it."""
    known = canaries.known[0]
    return measure_percentiles(engine, canary_feeds(engine, known), batch=len(known.reference), seconds=seconds)


def _conclusion(checked: CanaryReport, reference: Reference | None) -> str:
    if checked.passed:
        return "the engine computes what the workshop saw"
    if reference is None:
        return "there is no other engine here to compare with"
    if reference.canaries.passed:
        return f"ONNX Runtime computes it here with {reference.graph}: the fault is the engine's"
    return (
        f"ONNX Runtime with {reference.graph} does not compute it here either: "
        "images become other pixels here, or its version is at fault"
    )


def _digest(file: Path) -> str:
    try:
        return sha256_file(file)
    except OSError as error:
        raise EngineError(f"the engine {file} cannot be read: {error.strerror or error}") from error
