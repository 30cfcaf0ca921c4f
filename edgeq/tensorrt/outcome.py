"""What came of a build: the engine beside its plan, and what is saved where it is another one.

A build takes minutes to hours, and what a device shows of it is seen there alone. So what went wrong leaves the engine,
its inspector's JSON and a report, and the error says where.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal

from edgeq import __version__
from edgeq.artifact import Artifact
from edgeq.errors import EdgeqError, EngineError, OutputError, QuantizeError, first_line
from edgeq.faults import stopped_for_memory
from edgeq.files import new_directory
from edgeq.tensorrt.inspector import engine_information, read_layers
from edgeq.tensorrt.settings import BuildSettings
from edgeq.tensorrt.verify import verify_tensorrt

__all__ = ["ENGINE", "INSPECTOR", "REPORT", "BuildReport", "Outcome", "Say", "UnbuiltError", "cause"]

Say = Callable[[str], None]
"""Told, in a sentence, what a person should know of a build that goes on."""

_NAMED: Final = 3
_CAUSES: Final = 10
"""Layers that are named in a sentence, and in an error; the others are counted."""

ENGINE: Final = "engine.plan"
INSPECTOR: Final = "inspector.json"
REPORT: Final = "report.json"
"""Names of the three files in the directory of a build's evidence; the first two where there is an engine."""


class UnbuiltError(EngineError):
    """TensorRT built no engine, and not for want of memory: looser constraints may let it."""


class BuildReport(Artifact):
    """What became of one build.

    Attributes:
        edgeq: version here.
        tensorrt: that built, as it says itself.
        settings: what it was told.
        what: what is wrong, in a sentence.
        differs: the layers that compute in something else than planned, a sentence each.
        logged, warned: what TensorRT logged as errors and as warnings, such as tensors without a range; the last 200 of
            each, the oldest first.
    """

    otherwise = "is no report on a build"
    made_by = "edgeq build"

    version: Literal["edgeq.build-report/1"] = "edgeq.build-report/1"
    edgeq: str = __version__
    tensorrt: str
    settings: BuildSettings
    what: str
    differs: tuple[str, ...] = ()
    logged: tuple[str, ...] = ()
    warned: tuple[str, ...] = ()


class Outcome:
    """What came of one build.

    Args:
        trt: TensorRT that built.
        settings: what it was told.
        log: of `edgeq.tensorrt.log`.
        evidence: a directory for what is left of a build that did not come out as planned; what is there is removed
            then. None keeps nothing.
    """

    def __init__(self, trt: ModuleType, settings: BuildSettings, log: Any, evidence: Path | None) -> None:
        self._trt, self._settings, self._log, self._evidence = trt, settings, log, evidence
        self._engine: bytes | None = None
        self._inspected: str | None = None

    def nothing(self, graph: Path) -> EngineError:
        """The error that no engine was built: UnbuiltError, unless memory was too small."""
        error = (EngineError if stopped_for_memory(self._log.errors) else UnbuiltError)(
            f"TensorRT built no engine of {graph.name}",
            causes=(
                *self._log.causes(),
                "a layer has no kernel in the precision that was planned for it",
                "memory or workspace was too small for every kernel of a layer",
            ),
            next_step="read TensorRT's first error above; a rule of the plan can give that layer another precision",
        )
        self._keep(error)
        return error

    def verify(self, engine: bytes, tell: Say) -> None:
        """Load the engine, and compare what its inspector shows with the plan.

        Where the settings prefer precisions, what differs is told and kept, and the engine is good.

        Raises:
            EngineError: it cannot be loaded, or not be inspected.
            QuantizeError: a layer computes in another precision than planned.
        """
        self._engine = engine
        try:
            unseen = self._compare(engine)
        except QuantizeError as error:
            refused = error if self._settings.prefers else _refused(error, self._settings)
            self._keep(refused, error.causes)
            if not self._settings.prefers:
                raise refused from error
            tell(f"{error.what}, where precisions are preferred: {_named(error.causes)}")
            return
        except EngineError as error:
            self._keep(error)
            raise
        if unseen:
            layers = len(self._settings.layers)
            tell(f"the engine does not show what {len(unseen)} of {layers} layers compute in: {_named(unseen)}")

    def _compare(self, serialized: bytes) -> tuple[str, ...]:
        with cause(self._log, "the engine that was built cannot be inspected"):
            runtime = self._trt.Runtime(self._log)
            engine = runtime.deserialize_cuda_engine(serialized)
            if engine is None:
                raise EngineError("TensorRT cannot load the engine that it built", causes=self._log.causes())
            self._inspected = engine_information(self._trt, engine, self._settings.profiles[0])
        settings = self._settings
        return verify_tensorrt(
            settings.layers, read_layers(self._inspected), casts=settings.casts, quantization=settings.quantization
        )

    def _keep(self, error: EdgeqError, differs: Sequence[str] = ()) -> None:
        """Keep what there is, and let the error say where."""
        if self._evidence is None:
            return
        report = BuildReport(
            tensorrt=str(self._trt.__version__),
            settings=self._settings,
            what=error.what,
            differs=tuple(differs),
            logged=tuple(self._log.errors),
            warned=tuple(self._log.warnings),
        )
        place = _save(self._evidence, report, self._engine, self._inspected)
        error.next_step = "; ".join(filter(None, (place, error.next_step)))


@contextmanager
def cause(log: Any, what: str) -> Iterator[None]:
    """An error of the bindings as an EngineError with what TensorRT logged before it.

    Args:
        log: of `edgeq.tensorrt.log`.
        what: happened, in a sentence.
    """
    try:
        yield
    except (TypeError, RuntimeError, ValueError, MemoryError) as error:  # pybind11's: a null pointer is a TypeError
        causes = (*log.causes(), first_line(error), "there is no CUDA device, or its driver does not fit this TensorRT")
        raise EngineError(what, causes=causes) from error


def _save(directory: Path, report: BuildReport, engine: bytes | None, inspected: str | None) -> str:
    """Where it is, or why it is nowhere, in a sentence: a full disk does not hide what was to be kept."""
    try:
        shutil.rmtree(directory, ignore_errors=True)
        with new_directory(directory) as work:
            if engine is not None:
                (work / ENGINE).write_bytes(engine)
            if inspected is not None:
                (work / INSPECTOR).write_text(inspected, encoding="utf-8")
            report.save(work / REPORT)
    except (OSError, OutputError) as error:
        return f"what was built could not be kept: {first_line(error)}"
    tried = (
        f": edgeq verify-engine BUNDLE --backend tensorrt --engine {directory / ENGINE} runs the canaries through it"
    )
    kept = [*(["the engine"] if engine is not None else []), *(["its inspector's JSON"] if inspected else [])]
    return f"{', '.join(kept)} and a report are in {directory}{tried}" if kept else f"a report is in {directory}"


def _refused(error: QuantizeError, settings: BuildSettings) -> QuantizeError:
    """The same with fewer layers named, and what follows from how it was built."""
    typed = settings.quantization == "explicit"
    return QuantizeError(
        error.what,
        expected="the types of the graph: a strongly typed network has no constraints that could be loosened"
        if typed
        else "the precisions that were set on its layers and are obeyed",
        causes=(*error.causes[:_CAUSES], *_others(error.causes, _CAUSES)),
        next_step="a rule of the plan can give these layers another precision",
    )


def _named(sentences: Sequence[str]) -> str:
    return "; ".join((*sentences[:_NAMED], *_others(sentences, _NAMED)))


def _others(sentences: Sequence[str], named: int) -> tuple[str, ...]:
    return (f"and {len(sentences) - named} more",) if len(sentences) > named else ()
