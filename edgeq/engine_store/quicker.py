"""INT8 or FP16 on this device: both engines run the bundle's canaries, both are timed in turns, the quicker is taken.

A bundle has both graphs where the workshop could judge what INT8 loses and not what it is worth: how fast it is shows
here alone, and in this power mode.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from edgeq import __version__
from edgeq.artifact import Artifact
from edgeq.bundle.manifest import Manifest
from edgeq.engine.base import OpenEngine
from edgeq.engine.power import Power, read_power
from edgeq.engine_store.store import StoredEngine
from edgeq.errors import ArtifactError, EdgeqError, GateError
from edgeq.quality.latency import DEFAULT_TIMING, Latency, Timing, measure_latency
from edgeq.runtime.canary.canary_set import CanarySet, open_canaries
from edgeq.runtime.canary.check import compare_canaries, run_canaries

__all__ = [
    "CHOICE",
    "Contender",
    "EngineChoice",
    "EnginePrecision",
    "canary_failures",
    "choose_engine",
    "choose_half",
    "chosen_half",
    "read_choice",
]

CHOICE: Final = "choice.json"
"""The file's name beside each of the two engines."""

EnginePrecision = Literal["int8", "fp16"]
"""What most layers of one of the two engines compute in."""


class Contender(BaseModel):
    """One of the two engines.

    Attributes:
        key: in the store.
        sees: it passed the bundle's canaries.
        failures: what it failed at; empty where it sees.
        milliseconds: for one image, median; None where it was not timed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str = Field(pattern="^[0-9a-f]{64}$")
    sees: bool
    failures: tuple[str, ...]
    milliseconds: float | None


class EngineChoice(Artifact):
    """Which engine is taken, and on what figures.

    Attributes:
        chosen: the one that is loaded.
        because: in a sentence.
        engines: both.
        latency: FP16 as the reference and INT8 as the candidate, in turns; None where one of them does not see.
        power: the mode that they were timed in; None where the machine is not a Jetson.
        edgeq: version here.
    """

    otherwise = "does not say which engine is taken"
    made_by = "edgeq build"

    version: Literal["edgeq.engine-choice/1"] = "edgeq.engine-choice/1"
    chosen: EnginePrecision
    because: str
    engines: dict[EnginePrecision, Contender]
    latency: Latency | None
    power: Power | None
    edgeq: str = __version__

    def holds(self, keys: Mapping[EnginePrecision, str]) -> bool:
        """Whether it is of these two engines."""
        return {name: engine.key for name, engine in self.engines.items()} == dict(keys)


def read_choice(engine: Path) -> EngineChoice | None:
    """What was chosen when the engine of this file was built; None where nothing was, or it cannot be read."""
    try:
        return EngineChoice.load(engine.with_name(CHOICE))
    except ArtifactError:
        return None


def choose_engine(
    bundle: Path,
    manifest: Manifest,
    engines: Mapping[EnginePrecision, StoredEngine],
    opener: OpenEngine,
    *,
    timing: Timing = DEFAULT_TIMING,
    root: Path = Path("/"),
) -> EngineChoice:
    """Take one of two engines, and write why beside both; what was found before of the same two is found again.

    One engine is open at a time.

    Args:
        bundle: that they were built from, which was checked.
        manifest: its own.
        engines: of its INT8 and of its FP16 graph.
        opener: opens them.
        timing: how long they are timed.
        root: where `etc`, `proc`, `sys` and `var` are.

    Raises:
        ArtifactError: the bundle has no canaries that can be used.
        GateError: neither engine sees.
        OutputError: the store cannot be written.
    """
    keys, power = {name: each.record.key for name, each in engines.items()}, read_power(root)
    before = read_choice(engines["int8"].engine)
    if before is not None and before.holds(keys) and before.power == power:
        return before
    canaries = open_canaries(bundle, manifest)
    failures = {name: canary_failures(canaries, each.engine, opener) for name, each in engines.items()}
    if all(failures.values()):
        raise GateError(
            "neither the INT8 engine nor the FP16 engine computes what the workshop saw",
            causes=tuple(f"{name}: {found[0]}" for name, found in failures.items()),
            next_step="edgeq verify-engine BUNDLE --backend tensorrt tells more",
        )
    latency = None if any(failures.values()) else _timed(canaries, engines, opener, timing)
    chosen, because = _chosen(failures, latency)
    times = {"fp16": latency.reference_ms, "int8": latency.candidate_ms} if latency else {}
    choice = EngineChoice(
        chosen=chosen,
        because=because,
        engines={
            name: Contender(
                key=keys[name], sees=not failures[name], failures=failures[name], milliseconds=times.get(name)
            )
            for name in engines
        },
        latency=latency,
        power=power,
    )
    for each in engines.values():
        choice.save(each.engine.with_name(CHOICE))
    return choice


def choose_half(
    bundle: Path,
    manifest: Manifest,
    half: StoredEngine,
    int8: str,
    failure: str,
    opener: OpenEngine,
    *,
    root: Path = Path("/"),
) -> EngineChoice:
    """Take the FP16 engine where no INT8 engine could be made, if it sees, and write why beside it.

    Args:
        bundle: that it was built from, which was checked.
        manifest: its own.
        half: the FP16 engine.
        int8: the key that the INT8 engine would have.
        failure: why there is none, in a sentence.
        opener: opens engines.
        root: where `etc`, `proc`, `sys` and `var` are.

    Raises:
        ArtifactError: the bundle has no canaries that can be used.
        GateError: it does not see.
        OutputError: the store cannot be written.
    """
    found = canary_failures(open_canaries(bundle, manifest), half.engine, opener)
    if found:
        raise GateError(
            "no INT8 engine could be made, and the FP16 engine does not compute what the workshop saw",
            causes=(f"INT8: {failure}", f"FP16: {found[0]}"),
            next_step="edgeq verify-engine BUNDLE --backend tensorrt tells more",
        )
    choice = EngineChoice(
        chosen="fp16",
        because=f"no INT8 engine could be made here: {failure}",
        engines={
            "int8": Contender(key=int8, sees=False, failures=(failure,), milliseconds=None),
            "fp16": Contender(key=half.record.key, sees=True, failures=(), milliseconds=None),
        },
        latency=None,
        power=read_power(root),
    )
    choice.save(half.engine.with_name(CHOICE))
    return choice


def chosen_half(half: StoredEngine | None, int8: str | None) -> EngineChoice | None:
    """Why the FP16 engine is taken where there is no INT8 engine; None where nobody looked.

    Args:
        half: the FP16 engine; None where there is none.
        int8: the key that the INT8 engine would have.
    """
    choice = read_choice(half.engine) if half is not None else None
    held = choice is not None and choice.chosen == "fp16" and choice.engines["int8"].key == int8
    return choice if held else None


def canary_failures(canaries: CanarySet, engine: Path, opener: OpenEngine) -> tuple[str, ...]:
    """What an engine fails at; an engine that does not run is one that does not see.

    Args:
        canaries: of its bundle.
        engine: its file.
        opener: opens it.
    """
    try:
        return compare_canaries(canaries, run_canaries(opener(engine), canaries)).failures
    except EdgeqError as error:
        return (error.what,)


def _timed(
    canaries: CanarySet, engines: Mapping[EnginePrecision, StoredEngine], opener: OpenEngine, timing: Timing
) -> Latency:
    (pixels,) = canaries.known[0].feeds.values()
    return measure_latency(
        lambda: opener(engines["fp16"].engine),
        lambda: opener(engines["int8"].engine),
        pixels,
        threads=1,
        timing=timing,
    )


def _chosen(
    failures: Mapping[EnginePrecision, tuple[str, ...]], latency: Latency | None
) -> tuple[EnginePrecision, str]:
    if latency is None:
        chosen: EnginePrecision = "fp16" if failures["int8"] else "int8"
        other: EnginePrecision = "int8" if failures["int8"] else "fp16"
        return chosen, f"{other.upper()} does not compute here what the workshop saw: {failures[other][0]}"
    quicker: EnginePrecision = "int8" if latency.speedup > 1.0 else "fp16"
    return quicker, (
        f"INT8 is {latency.speedup:.2f} times as fast as FP16 here ({latency.speedup_low:.2f} to "
        f"{latency.speedup_high:.2f} in {latency.rounds} rounds), {latency.candidate_ms:.2f} against "
        f"{latency.reference_ms:.2f} ms an image, and both see"
    )
