"""What a benchmark found, as one JSON file that can be sent back."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from edgeq.artifact import Artifact
from edgeq.bench.answers import AnswerFigures, ClientsFigures
from edgeq.bench.ceiling import BenchCeiling
from edgeq.bench.conditions import Conditions
from edgeq.bench.graphs import GraphFigures
from edgeq.bundle.manifest import Kind
from edgeq.device.power_modes import PowerMode
from edgeq.engine.power import Power
from edgeq.engine_store.machine import Machine

__all__ = ["BenchLoad", "BenchMachine", "BenchReport", "versions_here"]

_PACKAGES: Final = ("edgeq", "numpy", "onnxruntime", "tensorrt", "torch", "transformers", "bitsandbytes", "openvino")


class BenchMachine(BaseModel):
    """Where it was measured.

    Attributes:
        machine: board or GPU, system, architecture.
        processor: its name; None where the system does not say one.
        processors: that the process may use.
        memory_bytes: of the system.
        power: of a Jetson; None elsewhere.
        device: the known device that the board is; None where it is none.
        mode: the device's figures in its power mode; None where they are not known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    machine: Machine
    processor: str | None
    processors: int
    memory_bytes: int
    power: Power | None
    device: str | None
    mode: PowerMode | None


class BenchLoad(BaseModel):
    """What was asked for: `tokens` and `clients` of a vision-language model, `batches` of a graph."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    repeats: int
    warmup: int
    tokens: int
    clients: tuple[int, ...]
    batches: tuple[int, ...]
    threads: int | None


class BenchReport(Artifact):
    """Everything.

    Attributes:
        made: when it ended, in UTC, as ISO 8601 has it.
        bundle: name of its directory.
        manifest_sha256: of its manifest, and so of all that is in it.
        kind, bundle_made_by: of the bundle.
        versions: package -> version, of what is installed; Python too.
        backend: that ran the graphs, with its version.
        machine: where.
        asked: for.
        conditions: what the machine did meanwhile.
        ceiling: of a vision-language model; None where it is not known.
        ceiling_note: where the ceiling is from, or why there is none, in a sentence.
        answers: of a vision-language model.
        graphs: of other bundles, one for each encoder.
        service: rows of a running `edgeq serve`, measured over HTTP, whose model ends its answers by itself.
    """

    otherwise = "is no report of a benchmark"
    made_by = "edgeq bench -o"
    later = ("ceiling", "answers", "graphs", "service")

    version: Literal["edgeq.bench/1"] = "edgeq.bench/1"
    made: str
    bundle: str
    manifest_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    kind: Kind
    bundle_made_by: str
    versions: dict[str, str]
    backend: str
    machine: BenchMachine
    asked: BenchLoad
    conditions: Conditions
    ceiling: BenchCeiling | None = None
    ceiling_note: str
    answers: AnswerFigures | None = None
    graphs: tuple[GraphFigures, ...] = ()
    service: tuple[ClientsFigures, ...] = ()


def versions_here() -> dict[str, str]:
    """Of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
