"""A second try of a build whose precisions could not be obeyed: they are preferred, and the canaries judge the engine.

TensorRT 10 fails a weakly typed build where a layer has no kernel in the precision that was set on it. With
PREFER_PRECISION_CONSTRAINTS it takes another one there. Such an engine is not what was planned, so it is stored only
where the bundle's canaries pass, under a key of its own, and what differs is written beside it. A strongly typed
network has no constraints: its types are those of the graph, and there is nothing to try again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

from edgeq.artifact import Artifact
from edgeq.engine.base import OpenEngine
from edgeq.engine_store.key import KeyParts, engine_key
from edgeq.engine_store.maker import Job, Maker
from edgeq.engine_store.quicker import canary_failures
from edgeq.engine_store.store import EngineStore, StoredEngine
from edgeq.errors import ArtifactError, EdgeqError, GateError
from edgeq.runtime.canary.canary_set import CanarySet
from edgeq.tensorrt.outcome import REPORT, BuildReport
from edgeq.tensorrt.settings import preferred

__all__ = [
    "SECOND_TRY",
    "SecondTry",
    "SecondTryError",
    "find_built",
    "make_engine",
    "read_second_try",
    "try_again",
]

SECOND_TRY: Final = "second-try.json"
"""The file's name beside the engine of a second try."""


class SecondTryError(GateError):
    """The engine of a second try does not compute what the workshop saw."""


class SecondTry(Artifact):
    """Why an engine was built with precisions that are preferred, and what it computes otherwise than planned.

    Attributes:
        first: what the first try ended with, in a sentence.
        differs: the layers that compute in something else than planned, a sentence each, as far as the engine shows.
        evidence: the directory with what is left of the first try.
    """

    otherwise = "does not say why there was a second try"
    made_by = "edgeq build"

    version: Literal["edgeq.second-try/1"] = "edgeq.second-try/1"
    first: str
    differs: tuple[str, ...]
    evidence: Path

    @property
    def because(self) -> str:
        """What a person should know of it, in a sentence."""
        shown = f"{len(self.differs)} layers compute in something else than planned" if self.differs else "none differs"
        return (
            f"a second try with PREFER_PRECISION_CONSTRAINTS, since {self.first}; {shown}, and the canaries pass "
            f"(the first try: {self.evidence})"
        )


def read_second_try(engine: Path) -> SecondTry | None:
    """What was written when the engine of this file was built; None where it was no second try."""
    with suppress(ArtifactError):
        return SecondTry.load(engine.with_name(SECOND_TRY))
    return None


def find_built(store: EngineStore, parts: KeyParts) -> StoredEngine | None:
    """The engine that is stored for `parts`, or that of a second try where the first one failed.

    Args:
        store: of engines.
        parts: of the key of the first try.
    """
    for each in (parts, _second(parts)):
        key = engine_key(each) if each is not None else None
        found = store.find(key) if key is not None else None
        if found is not None:
            return found
    return None


def make_engine(job: Job, maker: Maker, path: Path) -> None:
    """Build, and write the engine; what was left of a build before under this key is removed.

    Args:
        job: what is built.
        maker: builds.
        path: for the engine.

    Raises:
        EdgeqError: as `Maker.make`.
    """
    if job.evidence is not None:
        shutil.rmtree(job.evidence, ignore_errors=True)
    path.write_bytes(maker.make(job))


def try_again(
    job: Job,
    parts: KeyParts,
    error: EdgeqError,
    maker: Maker,
    store: EngineStore,
    canaries: Callable[[], CanarySet],
    opener: OpenEngine,
) -> StoredEngine | None:
    """Build once more with precisions that are preferred; None where that is of no use.

    Args:
        job: that failed.
        parts: of its key.
        error: that it failed with.
        maker: builds.
        store: of engines.
        canaries: gives those of the encoder; it may raise EdgeqError where there are none.
        opener: opens the engine for them.

    Raises:
        SecondTryError: the engine does not compute what the workshop saw.
        EdgeqError: the second try fails as well.
    """
    settings, second = job.settings.preferring(), _second(parts)
    if settings is None or second is None:
        return None
    try:
        known = canaries()
    except EdgeqError as missing:
        job.say(f"no second try: nothing could judge its engine, {missing.what}")
        return None
    again = replace(job, settings=settings, evidence=store.evidence(engine_key(second) or ""))
    job.say(f"{error.what}: a second try prefers the planned precisions, and the canaries decide")

    def make(path: Path) -> None:
        make_engine(again, maker, path)
        failures = canary_failures(known, path, opener)
        if failures:
            raise _blind(failures, again)
        SecondTry(first=error.what, differs=_differs(again), evidence=job.evidence or store.root).save(
            path.with_name(SECOND_TRY)
        )

    return store.build(settings, second, make, waiting=lambda: job.progress("wait", 0, 0))


def _second(parts: KeyParts) -> KeyParts | None:
    flags = preferred(parts.builder_flags)
    return None if flags is None else parts.model_copy(update={"builder_flags": tuple(sorted(flags))})


def _differs(job: Job) -> tuple[str, ...]:
    """What the build itself found; nothing is written where nothing differs."""
    if job.evidence is None or not (job.evidence / REPORT).exists():
        return ()
    return BuildReport.load(job.evidence / REPORT).differs


def _blind(failures: tuple[str, ...], job: Job) -> SecondTryError:
    left = f"what was built is in {job.evidence}; " if job.evidence is not None and job.evidence.exists() else ""
    return SecondTryError(
        f"the engine of the second try does not compute what the workshop saw: {failures[0]}",
        causes=(*failures[1:], "precisions that are preferred were left where they cost accuracy"),
        next_step=f"{left}leave --quantization implicit out: the Q/DQ graph says itself what is computed in which type",
    )
